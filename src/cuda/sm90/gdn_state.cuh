// A step of the walk over the chunks of one head of one row: a warpgroup holds 64 rows of S in
// registers for the whole row and exchanges nothing with anybody: S is the left operand of every
// product, converted in place. Other warps bring the chunks.
#pragma once

#include "src/cuda/sm80/gdn_chunk.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

inline constexpr int kTileBytes = kChunk * 128;  // 64 rows of 64 elements

/// q, k and 64 channels of v of a chunk in shared memory.
struct ChunkInputs {
  /// Halves of the channels, in each K above Q: one product of S with both.
  unsigned char kq[2][2][kTileBytes];
  unsigned char v[kTileBytes];  // then the output
};

/// What a block walks over.
struct WalkTask {
  Row row;
  int head, first_v, first_chunk, chunks;
};

/// The state's rows of a thread: g and g + 8 of its warp's 16, all columns.
template <class Visit>
__device__ void for_state(const WalkTask& task, const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = task.first_v + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < kChunkDim / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      visit(4 * n + 2 * half, row + 8 * half, 8 * n + lane % 4 * 2);
    }
  }
}

__device__ inline float2 load_pair(const View& x, std::int64_t at) {
  if (x.dtype == DType::kF32) return *reinterpret_cast<const float2*>(x.as<const float>() + at);
  return unpack<__nv_bfloat16>(
      *reinterpret_cast<const std::uint32_t*>(x.as<const __nv_bfloat16>() + at));
}
__device__ inline void store_pair(const View& x, std::int64_t at, float a, float b) {
  if (x.dtype == DType::kF32) {
    *reinterpret_cast<float2*>(x.as<float>() + at) = make_float2(a, b);
  } else {
    *reinterpret_cast<std::uint32_t*>(x.as<__nv_bfloat16>() + at) = pack<__nv_bfloat16>(a, b);
  }
}

/// Accumulators [64][16 Steps] as the left operand of a product.
template <class X, int Steps>
__device__ void to_operand(const float (&d)[64], std::uint32_t (&a)[Steps][4]) {
#pragma unroll
  for (int k = 0; k < Steps; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      a[k][r] = pack<X>(d[8 * k + 2 * r], d[8 * k + 2 * r + 1]);
    }
  }
}

/// The factors of this thread's columns 8 n + 2 t and the next.
__device__ inline float2 column_factors(const float* factors, int n) {
  return *reinterpret_cast<const float2*>(factors + 8 * n + threadIdx.x % 4 * 2);
}

/// Where a lane's output goes: 8 channels of each 16th token of a chunk.
template <class X>
struct OutputPlace {
  X* next;              // of the lane's first token in this chunk
  std::int64_t each;    // elements between its tokens
  std::uint32_t piece;  // in the tile of V, which the output replaces

  /// Eight lanes read from all banks: a piece each of eight tokens.
  __device__ static int token() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return lane / 16 * 8 + lane % 8;
  }

  __device__ OutputPlace(const ChunkParams& p, const WalkTask& task) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
    next = p.out.as<X>() + p.out.at(task.row.start + token(), task.head,
                                    task.first_v + 16 * warp + lane / 8 % 2 * 8);
    each = 16 * p.out.stride[0];
    piece = static_cast<std::uint32_t>(swizzled(token(), 2 * warp + lane / 8 % 2));
  }
};

/// The second half of xo to memory, by way of the tile: the warp's 16 channels of it are nobody
/// else's, and its V has been read.
template <class X>
__device__ void store_output(OutputPlace<X>& place, std::uint32_t tile, const float (&xo)[64],
                             int count) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const int at = 32 + 8 * pair;
    store_transposed(tile + place.piece + pair * 2048,
                     {pack<X>(xo[at], xo[at + 1]), pack<X>(xo[at + 2], xo[at + 3]),
                      pack<X>(xo[at + 4], xo[at + 5]), pack<X>(xo[at + 6], xo[at + 7])});
  }
  __syncwarp();
  const int token = OutputPlace<X>::token();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 piece = load_piece(tile + place.piece + i * 2048);
    if (16 * i + token < count) *reinterpret_cast<uint4*>(place.next) = piece;
    place.next += place.each;
  }
}

/// The rows of S that a warpgroup walks with.
struct StateRows {
  float s[64];

  __device__ void load(const ChunkParams& p, const WalkTask& task) {
    if (task.row.computed == 0) {
#pragma unroll
      for (int i = 0; i < 64; ++i) s[i] = 0.0f;
      return;
    }
    for_state(task, [&](int i, int v, int k) {
      const float2 pair = load_pair(p.state, p.state.at(task.row.slot, task.head, v, k));
      s[i] = pair.x;
      s[i + 1] = pair.y;
    });
  }

  __device__ void store(const ChunkParams& p, const WalkTask& task) const {
    for_state(task, [&](int i, int v, int k) {
      store_pair(p.state, p.state.at(task.row.slot, task.head, v, k), s[i], s[i + 1]);
    });
  }
};

/// One chunk: the output of the warpgroup's channels, S after it. `wait` returns when the chunk is
/// there. `left`: tokens from the chunk's first to the row's end.
template <class X, class Wait>
__device__ void walk_chunk(StateRows& rows, OutputPlace<X>& place, ChunkInputs& inputs,
                           const ChunkMatrices& matrices, const ChunkFactors& factors, int left,
                           const Wait& wait) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
  auto& s = rows.s;
  std::uint32_t state[8][4], operand[4][4], values[4][4];
  float xo[64];  // [64 channels][64 tokens] twice: S K^T, then U; S Q^T, then the output
  to_operand<X, 8>(s, state);
  wait();
  const std::uint64_t rows_of_kq = matrix_descriptor(shared_address(inputs.kq), 16);
  begin_products();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    multiply_rows<X>(xo, state[step],
                     advance(rows_of_kq, step / 4 * (2 * kTileBytes) + step % 4 * 32), step > 0);
  }
  commit_products();
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {  // V^T of the warp's channels
    load_transposed(values[pair],
                    shared_address(inputs.v) +
                        swizzled(16 * pair + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
  }
  wait_products<0>();
  hold(xo);
  // V - exp(G) r S k, as the left operand.
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 key = column_factors(factors.key_factor, n);
    const float2 query = column_factors(factors.query_factor, n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 4 * n + 2 * half;
      const float2 v = unpack<X>(values[n / 2][n % 2 * 2 + half]);
      operand[n / 2][n % 2 * 2 + half] = pack<X>(v.x - key.x * xo[at], v.y - key.y * xo[at + 1]);
      xo[at] = xo[at + 1] = 0.0f;
      xo[32 + at] *= query.x;
      xo[32 + at + 1] *= query.y;
    }
  }
  const std::uint64_t columns = narrow_descriptor(shared_address(&matrices));
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_rows<X>(xo, operand[step], advance(columns, step * sizeof(matrices.columns[0])), 1);
  }
  commit_products();
  const float state_factor = factors.state_factor;
#pragma unroll
  for (int i = 0; i < 64; ++i) s[i] *= state_factor;
  wait_products<0>();
  hold(xo);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 factor = column_factors(factors.update_factor, n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 4 * n + 2 * half;
      operand[n / 2][n % 2 * 2 + half] = pack<X>(factor.x * xo[at], factor.y * xo[at + 1]);
    }
  }
  const std::uint64_t columns_of_k = matrix_descriptor(shared_address(inputs.kq), 2 * kTileBytes);
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_columns<X>(s, operand[step], advance(columns_of_k, step * 2048));
  }
  commit_products();
  store_output<X>(place, shared_address(inputs.v), xo, left);
  wait_products<0>();
  hold(s);
}

/// Zeros for a padded row.
template <class X>
__device__ void zero_out(const ChunkParams& p, const WalkTask& task, int channels) {
  const int pieces = channels / 8;
  for (int at = static_cast<int>(threadIdx.x); at < task.row.length * pieces;
       at += static_cast<int>(blockDim.x)) {
    *reinterpret_cast<uint4*>(p.out.as<X>() + p.out.at(task.row.start + at / pieces, task.head,
                                                       task.first_v + at % pieces * 8)) =
        make_uint4(0, 0, 0, 0);
  }
}

}  // namespace hybridattn::cuda
