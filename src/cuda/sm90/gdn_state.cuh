// A step of the walk over the chunks of one head of one row: a warpgroup holds 64 rows of S in
// registers for the whole row and exchanges nothing with anybody: S is the left operand of every
// product, converted in place. Other warps bring the chunks.
#pragma once

#include "src/cuda/sm90/gdn_stage.cuh"

namespace hybridattn::cuda {

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

/// The same in two bf16 parts whose sum has 16 bits.
__device__ inline void split_operand(const float (&d)[64], std::uint32_t (&high)[8][4],
                                     std::uint32_t (&low)[8][4]) {
  to_operand<__nv_bfloat16, 8>(d, high);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float2 taken = unpack<__nv_bfloat16>(high[k][r]);
      const int at = 8 * k + 2 * r;
      low[k][r] = pack<__nv_bfloat16>(d[at] - taken.x, d[at + 1] - taken.y);
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

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] = 0.0f;
  }
  /// The state at rest, or zero where it has seen nothing.
  __device__ void load(const ChunkParams& p, const WalkTask& task) {
    if (task.row.computed == 0) return clear();
    for_state(task, [&](int i, int v, int k) {
      const float2 pair = load_pair(p.state, p.state.at(task.row.slot, task.head, v, k));
      s[i] = pair.x;
      s[i + 1] = pair.y;
    });
  }
  /// A state in scratch: float [128][128].
  __device__ void load(const float* state, const WalkTask& task) {
    for_state(task, [&](int i, int v, int k) {
      const float2 pair = *reinterpret_cast<const float2*>(state + v * kChunkDim + k);
      s[i] = pair.x;
      s[i + 1] = pair.y;
    });
  }
  __device__ void store(float* state, const WalkTask& task) const {
    for_state(task, [&](int i, int v, int k) {
      *reinterpret_cast<float2*>(state + v * kChunkDim + k) = make_float2(s[i], s[i + 1]);
    });
  }
  __device__ void store(const ChunkParams& p, const WalkTask& task) const {
    for_state(task, [&](int i, int v, int k) {
      store_pair(p.state, p.state.at(task.row.slot, task.head, v, k), s[i], s[i + 1]);
    });
  }
};

/// One chunk: S after it and, from an OutputStage, the output of the warpgroup's channels. `wait`
/// returns when the chunk is there. `left`: tokens from the chunk's first to the row's end. V is
/// zero where `with_v` is false.
template <class X, class Stage, class Wait>
__device__ void walk_chunk(StateRows& rows, OutputPlace<X>& place, Stage& stage, bool with_v,
                           int left, const Wait& wait) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
  auto& s = rows.s;
  std::uint32_t state[8][4], operand[4][4], values[4][4];
  // [64 channels][64 tokens]: S K^T, then U; with outputs also S Q^T, then the output.
  float xo[Stage::kOutputs ? 64 : 32];
  to_operand<X, 8>(s, state);
  wait();
  const int half_bytes = static_cast<int>(stage.keys(1) - stage.keys(0));
  const std::uint64_t rows_of_kq = matrix_descriptor(shared_address(stage.keys(0)), 16);
  begin_products();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    multiply_rows<X>(xo, state[step], advance(rows_of_kq, step / 4 * half_bytes + step % 4 * 32),
                     step > 0);
  }
  commit_products();
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {  // V^T of the warp's channels
    if (with_v) {
      load_transposed(values[pair],
                      shared_address(stage.v) +
                          swizzled(16 * pair + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
    } else {
      for (std::uint32_t& word : values[pair]) word = 0;
    }
  }
  wait_products<0>();
  hold(xo);
  // V - exp(G) r S k, as the left operand.
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 key = column_factors(stage.factors.key_factor, n);
    const float2 query = column_factors(stage.factors.query_factor, n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 4 * n + 2 * half;
      const float2 v = unpack<X>(values[n / 2][n % 2 * 2 + half]);
      operand[n / 2][n % 2 * 2 + half] = pack<X>(v.x - key.x * xo[at], v.y - key.y * xo[at + 1]);
      xo[at] = xo[at + 1] = 0.0f;
      if constexpr (Stage::kOutputs) {
        xo[32 + at] *= query.x;
        xo[32 + at + 1] *= query.y;
      }
    }
  }
  const int column_bytes = static_cast<int>(stage.solve(1) - stage.solve(0));
  const std::uint64_t columns = narrow_descriptor(shared_address(stage.solve(0)));
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_rows<X>(xo, operand[step], advance(columns, step * column_bytes), 1);
  }
  commit_products();
  const float state_factor = stage.factors.state_factor;
#pragma unroll
  for (int i = 0; i < 64; ++i) s[i] *= state_factor;
  wait_products<0>();
  hold(xo);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 factor = column_factors(stage.factors.update_factor, n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 4 * n + 2 * half;
      operand[n / 2][n % 2 * 2 + half] = pack<X>(factor.x * xo[at], factor.y * xo[at + 1]);
    }
  }
  const std::uint64_t columns_of_k = matrix_descriptor(shared_address(stage.keys(0)), half_bytes);
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_columns<X>(s, operand[step], advance(columns_of_k, step * 2048));
  }
  commit_products();
  if constexpr (Stage::kOutputs) store_output<X>(place, shared_address(stage.v), xo, left);
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
