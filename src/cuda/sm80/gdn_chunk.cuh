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
#include "src/ops/gdn_params.h"

namespace hybridattn::cuda {

inline constexpr int kChunk = kGdnChunk;
static_assert(kChunk == 64, "the kernels' tiles are of 64 tokens");
inline constexpr int kChunkDim = 128;

/// What is left of a chunk of one head. The matrices are rows of 128 bytes whose 16-byte pieces are
/// swapped by piece ^ (row % 8): as wgmma's 128-byte swizzle has it, and free of bank conflicts.
struct ChunkRecord {
  unsigned char solve[kChunk * kChunk * 2];   // T
  unsigned char scores[kChunk * kChunk * 2];  // P T, so that the output does not wait for U
  float key_factor[kChunk];                   // exp(G) r
  float query_factor[kChunk];                 // exp(G) scale / |q|
  float update_factor[kChunk];                // exp(G_last - G) r
  float state_factor;                         // exp(G_last)
  float unused[63];
};
static_assert(sizeof(ChunkRecord) % 1024 == 0);

struct ChunkParams {
  DeviceRowTables rows;
  View q, k;             // [tokens, HK, 128], 16-byte pieces aligned
  View v, out;           // [tokens, HV, 128]
  View log_decay;        // [tokens, HV] f32
  View beta;             // [tokens, HV] f32
  View state;            // [slots, HV, 128, 128]
  ChunkRecord* records;  // [chunks, HV]
  int k_heads, v_heads, group;
  float scale;
  bool qk_l2norm;
};

/// Why the chunked kernels cannot serve a call, nullptr when they can.
const char* chunk_refusal(const ops::GdnParams& p);
core::DeviceNeeds chunk_needs(const ops::GdnParams& p);
ChunkParams chunk_params(const ops::GdnParams& p, const core::DeviceLaunch& launch);

/// Fills the records of all chunks. X: the type of q, k, v and out.
template <class X>
Status prepare_chunks(const ChunkParams& p, const core::DeviceLaunch& launch);

/// Byte of piece `piece` (16 bytes) of a row.
template <int RowBytes = 128>
__device__ inline int swizzled(int row, int piece) {
  return row * RowBytes + ((piece ^ (row & 7)) << 4);
}

}  // namespace hybridattn::cuda
