// What the two halves of the chunked delta rule share: everything of a chunk that does not depend
// on the state is computed first, for all chunks at once, and left in scratch for the walk over
// chunks.
//
// With k, q as given, r = 1 / |k|, G the running sum of log decays inside the chunk, all of one
// head:
//   L[i,j] = beta_i r_i r_j (k_i k_j) exp(G_i - G_j)            for j < i
//   T      = (I + L)^-1 diag(beta)
//   P[i,j] = scale / |q_i| r_j (q_i k_j) exp(G_i - G_j)         for j <= i
// and then, chunk after chunk, with S the state:
//   R = V - diag(exp(G) r) K S^T
//   U = T R
//   O = diag(exp(G) scale / |q|) Q S^T + P T R
//   S <- exp(G_last) S + U^T diag(exp(G_last - G) r) K
#pragma once

#include "hybridattn/ops/gdn_prefill.h"
#include "src/core/kernel.h"
#include "src/cuda/element.cuh"
#include "src/ops/gdn_prefill_params.h"

namespace hybridattn::cuda {

inline constexpr int kChunk = kGdnChunk;
static_assert(kChunk == 64, "the kernels' tiles are of 64 tokens");
/// Channels of a head that the kernels have room for; heads of 64 are filled up with zeros, which
/// change no norm and no product.
inline constexpr int kChunkDim = 128;
inline constexpr int kStateFloats = kChunkDim * kChunkDim;
/// Blocks that walk over a row's head, each with its V channels.
inline constexpr int kWalkParts = 2;

/// Factors of a chunk's tokens.
struct ChunkFactors {
  float key_factor[kChunk];     // exp(G) r
  float query_factor[kChunk];   // exp(G) scale / |q|
  float update_factor[kChunk];  // exp(G_last - G) r
  float state_factor;           // exp(G_last)
  /// Logarithm to 2 of a bound of what the chunk makes of a state before it: of exp(G_last) and,
  /// for each token, of the norm of I - beta k k^T.
  float growth;
  float unused[2];
};

/// The matrices of a chunk, T and P T, in columns of 16: rows of 32 bytes whose two 16-byte pieces
/// change places by row / 4 % 2, as wgmma's 32-byte swizzle has it, and free of bank conflicts.
inline constexpr int kMatrixColumnBytes = kChunk * 32;
struct ChunkMatrices {
  unsigned char columns[4][2][kMatrixColumnBytes];
};
inline constexpr int kSolve = 0;   // T
inline constexpr int kScores = 1;  // P T, so that the output does not wait for U

/// Blocks of [16][16] of both matrices up to the diagonal.
inline constexpr int kLowerBlocks = 2 * (4 + 3 + 2 + 1);
inline constexpr int kBlockBytes = 16 * 32;

/// What is left of a chunk of one head.
struct alignas(16) ChunkRecord {
  /// ChunkMatrices without the blocks above the diagonals, which are zero.
  unsigned char matrices[kLowerBlocks][kBlockBytes];
  ChunkFactors factors;
};

/// A matrix [128][128] that a state is multiplied with, in two bf16 parts whose sum has 16 bits:
/// each in two groups of 64 columns of the 128-byte swizzle. Of a row's first segment: the row's
/// state, as float [128][128].
struct alignas(16) TransferMatrix {
  unsigned char parts[2][2][kChunkDim * 128];
};

/// What the states at the starts of segments are found from. A cut is where a segment of a row ends
/// and its next begins; there are at most segments - 1.
struct SegmentStates {
  float* local;  // [cuts, HV, 128, 128] the state there from zero at the segment's start
  TransferMatrix* transfer;  // [cuts, HV] what the state at the segment's start is multiplied with
  std::int32_t* forgets;     // [cuts, HV] 1 where that is nothing: the state has decayed
};

/// A tensor of heads, and how many of kChunkDim channels it has.
struct HeadView : View {
  int channels = 0;

  HeadView() = default;
  explicit HeadView(const ConstTensorView& view)
      : View(view), channels(static_cast<int>(view.dim(2))) {}
};

struct ChunkParams {
  DeviceRowTables rows;
  HeadView q, k;         // [tokens, HK, K], 16-byte pieces aligned
  HeadView v, out;       // [tokens, HV, V]
  View log_decay;        // [tokens, HV] f32
  View beta;             // [tokens, HV] f32
  View state;            // [slots, HV, V, K]
  ChunkRecord* records;  // [chunks, HV]
  int segments;          // into how many all rows may be cut, 1 = they are not
  SegmentStates states;  // between them
  ops::PlacedCheckpoints checkpoints;
  float* boundary;      // [checkpoints, HV, 128, 128] states at the chunk boundaries before them
  std::int64_t tokens;  // of q, k and v
  int k_heads, v_heads, group;
  float scale;
  bool qk_l2norm;
};

/// Why the chunked kernels cannot serve a call, nullptr when they can.
const char* chunk_refusal(const ops::GdnParams& p);
core::DeviceNeeds chunk_needs(const ops::GdnPrefillParams& p, const core::DeviceInfo& info);
ChunkParams chunk_params(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch);

/// Fills the records of all chunks. X: the type of q, k, v and out.
template <class X>
Status prepare_chunks(const ChunkParams& p, const core::DeviceLaunch& launch);

/// Byte of piece `piece` (16 bytes) of a row.
template <int RowBytes = 128>
__device__ inline int swizzled(int row, int piece) {
  return row * RowBytes + ((piece ^ (row & 7)) << 4);
}

/// Byte of a 16-byte piece of a row of 32 bytes.
__device__ inline int narrow_swizzled(int row, int piece) {
  return row * 32 + ((piece ^ (row / 4 % 2)) << 4);
}

/// Which block of a record has the rows of block `row` in column `column` of a matrix.
__device__ constexpr int record_block(int matrix, int row, int column) {
  return column * (9 - column) + matrix * (4 - column) + row - column;
}

/// Where block `at` of a record's matrices stands in ChunkMatrices.
__device__ constexpr int matrix_byte(int at) {
  const int column = at < 8 ? 0 : at < 14 ? 1 : at < 18 ? 2 : 3;
  const int rows = 4 - column;
  const int rest = at - column * (9 - column);
  const int matrix = rest >= rows ? 1 : 0;
  const int row = column + rest - matrix * rows;
  return (column * 2 + matrix) * kMatrixColumnBytes + row * kBlockBytes;
}

}  // namespace hybridattn::cuda
