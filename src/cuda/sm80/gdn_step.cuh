// The steps of the walk over the chunks of one head of one row, by warp-wide instructions: four
// warps, 16 V channels each. What a chunk has done with is loaded for the next one at once, keys
// into a second buffer: two blocks find room on a multiprocessor of sm_80 or sm_90, one where there
// are 99 KB of shared memory. A third would cost registers that spill and gain 3 %.
#pragma once

#include "src/cuda/sm80/gdn_state.cuh"
#include "src/cuda/sm80/gdn_tile.cuh"

namespace hybridattn::cuda {

inline constexpr int kKeyBytes = kChunkDim * 2;  // of a row of K or Q

struct WalkBuffers {
  alignas(kKeyBytes) unsigned char k[2][kChunk * kKeyBytes];
  alignas(kKeyBytes) unsigned char q[kChunk * kKeyBytes];
  alignas(128) unsigned char v[kChunk * kChannels * 2];
  alignas(128) unsigned char out[32 * kChannels * 2];
  alignas(128) unsigned char matrices[kLowerBlocks][kBlockBytes];
  ChunkFactors factors[2];
};

struct Walk {
  const ChunkParams& p;
  const WalkTask& task;
  WalkBuffers& shared;
  bool with_v = true;  // or V is zero

  __device__ const ChunkRecord& record(int c) const {
    return p.records[std::int64_t{task.first_chunk + c} * p.v_heads + task.head];
  }
  __device__ std::int64_t first(int c) const { return task.row.start + c * kChunk; }
  __device__ int left(int c) const { return task.row.length - c * kChunk; }

  // The loads of a chunk, each a group of its own, empty behind the last chunk.
  template <class X>
  __device__ void load_keys(int c) const {
    if (c < task.chunks) {
      load_tile<X, kChunkDim, kWalkers>(shared.k[c % 2], p.k, first(c), left(c),
                                        task.head / p.group);
      copy_pieces<kWalkers>(&shared.factors[c % 2], &record(c).factors, sizeof(ChunkFactors));
    }
    commit_copies();
  }
  template <class X, bool Outputs>
  __device__ void load_queries(int c) const {
    if (c < task.chunks) {
      if (Outputs) {
        load_tile<X, kChunkDim, kWalkers>(shared.q, p.q, first(c), left(c), task.head / p.group);
      }
      if (Outputs || with_v) {
        load_tile<X, kChannels, kWalkers>(shared.v, p.v, first(c), left(c), task.head,
                                          task.first_v);
      }
    }
    commit_copies();
  }
  __device__ void load_matrices_of(int c) const {
    if (c < task.chunks) {
      copy_pieces<kWalkers>(shared.matrices, record(c).matrices, sizeof(shared.matrices));
    }
    commit_copies();
  }
};

/// The thread. What follows from it is computed where it is used: kept for the whole loop, it would
/// spill.
__device__ inline int thread_here() {
  auto thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

/// The address of piece `piece` of row `row` of a tile of K or Q. Those of pieces 2 i further on
/// differ by an exclusive or with 32 i.
__device__ inline std::uint32_t piece_address(const unsigned char* tile, int row, int piece) {
  return shared_address(tile) + swizzled<kKeyBytes>(row, piece);
}

/// d = S x^T for the rows of a tile [64][128]: [16 channels of the warp][64 tokens].
template <class X>
__device__ void multiply_state(const float (&s)[64], const unsigned char* tile, float (&d)[32]) {
  const int lane = thread_here() % 32;
  const std::uint32_t base = piece_address(tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (float& x : d) x = 0.0f;
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    std::uint32_t state[4];  // converted for each product: kept for both it would spill
#pragma unroll
    for (int r = 0; r < 4; ++r) state[r] = pack<X>(s[8 * step + 2 * r], s[8 * step + 2 * r + 1]);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      std::uint32_t b[4];
      load_matrices(b, (base ^ 32 * step) + 16 * pair * kKeyBytes);
      multiply_add<X>(d + 8 * pair, state, b[0], b[1]);
      multiply_add<X>(d + 8 * pair + 4, state, b[2], b[3]);
    }
  }
}

/// V - exp(G) r S k as the left operand; `v` nullptr: V is zero.
template <class X>
__device__ void residual(const unsigned char* v, const float* key_factor, const float (&sk)[32],
                         std::uint32_t (&operand)[4][4]) {
  const int thread = thread_here();
  const int lane = thread % 32;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    std::uint32_t values[4] = {};  // V^T of the warp's channels
    if (v != nullptr) {
      load_transposed(values, shared_address(v) + swizzled(16 * pair + lane / 16 * 8 + lane % 8,
                                                           thread / 32 * 2 + lane / 8 % 2));
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 key = column_factors(key_factor, 2 * pair + n);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = 8 * pair + 4 * n + 2 * half;
        const float2 value = unpack<X>(values[2 * n + half]);
        operand[pair][2 * n + half] =
            pack<X>(value.x - key.x * sk[at], value.y - key.y * sk[at + 1]);
      }
    }
  }
}

/// d += R m^T for one of a chunk's lower triangular matrices.
template <class X, int Matrix>
__device__ void multiply_lower(const std::uint32_t (&operand)[4][4],
                               const unsigned char (&matrices)[kLowerBlocks][kBlockBytes],
                               float (&d)[32]) {
  const int lane = thread_here() % 32;
  const int row = narrow_swizzled(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int column = 0; column < 4; ++column) {
#pragma unroll
    for (int block = column; block < 4; ++block) {
      const int at = record_block(Matrix, block, column);
      std::uint32_t b[4];
      load_matrices(b, shared_address(matrices[at]) + row);
      multiply_add<X>(d + 8 * block, operand[column], b[0], b[1]);
      multiply_add<X>(d + 8 * block + 4, operand[column], b[2], b[3]);
    }
  }
}

/// Columns times their factors.
__device__ inline void scale_columns(const float* factors, float (&d)[32]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 factor = column_factors(factors, n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      d[4 * n + 2 * half] *= factor.x;
      d[4 * n + 2 * half + 1] *= factor.y;
    }
  }
}

/// S <- f S + U K.
template <class X>
__device__ void update_state(const std::uint32_t (&u)[4][4], const unsigned char* keys, float f,
                             float (&s)[64]) {
  const int lane = thread_here() % 32;
  const std::uint32_t base = piece_address(keys, lane % 16, lane / 16);
#pragma unroll
  for (float& x : s) x *= f;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      std::uint32_t b[4];
      load_transposed(b, (base ^ 32 * m) + 16 * step * kKeyBytes);
      multiply_add<X>(s + 8 * m, u[step], b[0], b[1]);
      multiply_add<X>(s + 8 * m + 4, u[step], b[2], b[3]);
    }
  }
}

/// All chunks of a task. Outputs: whether they are wanted, or states alone. `checkpoints` is shown
/// the state before each chunk.
template <class X, bool Outputs, class Checkpoints>
__device__ void walk_chunks(const Walk& walk, StateRows& rows, Checkpoints& checkpoints) {
  WalkBuffers& shared = walk.shared;
  OutputPlace<X> place(walk.p, walk.task);
  walk.load_keys<X>(0);
  walk.load_queries<X, Outputs>(0);
  walk.load_matrices_of(0);
  for (int c = 0; c < walk.task.chunks; ++c) {
    checkpoints.pass(c, walk.task, rows);
    const ChunkFactors& factors = shared.factors[c % 2];
    float d[32], out[32];
    std::uint32_t operand[4][4];
    wait_copies<1>();  // all but the matrices
    __syncthreads();
    walk.load_keys<X>(c + 1);
    multiply_state<X>(rows.s, shared.k[c % 2], d);
    residual<X>(Outputs || walk.with_v ? shared.v : nullptr, factors.key_factor, d, operand);
    if constexpr (Outputs) {
      multiply_state<X>(rows.s, shared.q, out);
      scale_columns(factors.query_factor, out);
    }
    wait_copies<1>();  // all but the next keys
    __syncthreads();
    walk.load_queries<X, Outputs>(c + 1);
    if constexpr (Outputs) {
      multiply_lower<X, kScores>(operand, shared.matrices, out);
      store_output<2>(place, shared_address(shared.out), out, walk.left(c));
    }
#pragma unroll
    for (float& x : d) x = 0.0f;
    multiply_lower<X, kSolve>(operand, shared.matrices, d);
    __syncthreads();
    walk.load_matrices_of(c + 1);
    scale_columns(factors.update_factor, d);
    to_operand<X, 4>(d, operand);
    update_state<X>(operand, shared.k[c % 2], factors.state_factor, rows.s);
  }
  wait_copies<0>();
}

}  // namespace hybridattn::cuda
