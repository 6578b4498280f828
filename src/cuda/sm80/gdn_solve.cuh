// (I + L)^-1 of a chunk, by four warps.
//
// Warp w has rows [16 w, 16 w + 16) of L, and T = (I + L)^-1 is found in blocks of 16, all of them
// transposed: then the sums of one product are the operand of the next. The blocks of the diagonal
// by substitution in float; then
//   T_10 = -T_11 L_10 T_00,  T_21 = -T_22 L_21 T_11,  T_32 = -T_33 L_32 T_22
//   T_20 = -T_22 N_20,  T_3a = -T_33 N_3a - T_32 N_2a   for a = 0, 1
//   N_ia = sum over a <= m < 2 of L_im T_ma.
// The operands are pairs of fp16, 22 bits: where keys are normalised and beta is at most 2, each
// factor I - beta k k^T has norm 1 or less, so no entry of L or T exceeds 2.
#pragma once

#include "src/cuda/mma.cuh"
#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {

/// A thread's place among the rows: g and g + 8 of the 16 of block `block`; of each 8 columns 2 t
/// and 2 t + 1.
struct SolvePlace {
  int block, lane, g, t;

  __device__ explicit SolvePlace(int block_of_warp)
      : block(block_of_warp), lane(static_cast<int>(threadIdx.x) % 32) {
    // What follows from these would be kept from one head to the next, in registers that are not
    // there.
    asm volatile("" : "+r"(block), "+r"(lane));
    g = lane / 4;
    t = lane % 4;
  }
};

/// A [16][16] block as two of fp16, high parts and what they leave.
struct SplitBlock {
  unsigned char high[16 * 32], low[16 * 32];
};

/// Floats from one row of a diagonal block to the next.
inline constexpr int kFloatStride = 20;

struct SolveShared {
  alignas(128) SplitBlock diagonal[4];  // T_ii^T
  SplitBlock below[2];                  // T_10^T, T_32^T
  uint4 lower[6][2][32];                // L_im, m < i, as right operands: high parts, low parts
  float floats[4][16 * kFloatStride];   // L_ii^T, then T_ii^T
};

/// Four registers of a split operand, of four pairs of floats.
struct SplitOperand {
  std::uint32_t high[4], low[4];

  __device__ void set(int i, float a, float b) {
    high[i] = pack<__half>(a, b);
    const float2 back = unpack<__half>(high[i]);
    low[i] = pack<__half>(a - back.x, b - back.y);
  }
};

/// The place of L_im among the blocks below the diagonal.
__device__ inline int lower_index(int i, int m) { return i * (i - 1) / 2 + m; }

/// A block as a left operand.
__device__ inline SplitOperand load_left(const SolvePlace& at, const SplitBlock& block) {
  const std::uint32_t from =
      shared_address(block.high) + narrow_swizzled(at.lane % 16, at.lane / 16);
  SplitOperand out;
  load_matrices(out.high, from);
  load_matrices(out.low, from + sizeof(block.high));
  return out;
}
/// A block as a right operand: two registers for each 8 columns.
__device__ inline SplitOperand load_right(const SolvePlace& at, const SplitBlock& block) {
  const std::uint32_t from =
      shared_address(block.high) + narrow_swizzled(at.lane % 16, at.lane / 16);
  SplitOperand out;
  load_transposed(out.high, from);
  load_transposed(out.low, from + sizeof(block.high));
  return out;
}
__device__ inline void store_block(const SolvePlace& at, SplitBlock& block, const SplitOperand& x) {
  const std::uint32_t to = shared_address(block.high) + narrow_swizzled(at.lane % 16, at.lane / 16);
  store_matrices(to, x.high);
  store_matrices(to + sizeof(block.high), x.low);
}

/// The sums of a [16][16] product: 8 columns each.
using BlockSums = float[2][4];

/// sign times sums as a left operand.
__device__ inline SplitOperand to_left(const BlockSums& sums, float sign = 1.0f) {
  SplitOperand out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.set(i, sign * sums[i / 2][i % 2 * 2], sign * sums[i / 2][i % 2 * 2 + 1]);
  }
  return out;
}

/// sums[p] += a[p] B[p], in three products of the parts each, none of which waits for its
/// neighbour.
template <int Products>
__device__ inline void multiply_split(BlockSums (&sums)[Products],
                                      const SplitOperand (&a)[Products],
                                      const SplitOperand (&b)[Products]) {
#pragma unroll
  for (int part = 0; part < 3; ++part) {
#pragma unroll
    for (int p = 0; p < Products; ++p) {
      const auto& left = part == 0 ? a[p].low : a[p].high;
      const auto& right = part == 1 ? b[p].low : b[p].high;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        multiply_add<__half>(sums[p][n], left, right[2 * n], right[2 * n + 1]);
      }
    }
  }
}

/// L_im^T as a right operand.
__device__ inline void store_lower(SolveShared& shared, int i, int m, int lane,
                                   const SplitOperand& x) {
  auto& block = shared.lower[lower_index(i, m)];
  block[0][lane] = make_uint4(x.high[0], x.high[1], x.high[2], x.high[3]);
  block[1][lane] = make_uint4(x.low[0], x.low[1], x.low[2], x.low[3]);
}
__device__ inline SplitOperand load_lower(const SolvePlace& at, const SolveShared& shared, int i,
                                          int m) {
  const auto& block = shared.lower[lower_index(i, m)];
  const uint4 high = block[0][at.lane], low = block[1][at.lane];
  return {{high.x, high.y, high.z, high.w}, {low.x, low.y, low.z, low.w}};
}

/// T_ij from T_ij^T without beta.
template <class X>
__device__ void write_solve(const SolvePlace& at, const float* beta, int i, int j,
                            const BlockSums& x, float sign, ChunkMatrices& matrices) {
  const float first = sign * beta[16 * j + at.g];
  const float second = sign * beta[16 * j + at.g + 8];
  store_transposed(
      shared_address(matrices.columns[j][kSolve]) +
          narrow_swizzled(16 * i + at.lane % 8 + at.lane / 16 * 8, at.lane / 8 % 2),
      {pack<X>(first * x[0][0], first * x[0][1]), pack<X>(second * x[0][2], second * x[0][3]),
       pack<X>(first * x[1][0], first * x[1][1]), pack<X>(second * x[1][2], second * x[1][3])});
}

/// The warp's block of the diagonal: T_ii by substitution, a lane for each column, twice.
template <class X>
__device__ void solve_diagonal(const SolvePlace& at, const float* beta, SolveShared& shared,
                               ChunkMatrices& matrices) {
  const int column = at.lane % 16;
  float* lower = shared.floats[at.block];
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = i == column ? 1.0f : 0.0f;
#pragma unroll
  for (int j = 0; j < 15; ++j) {
#pragma unroll
    for (int quad = (j + 1) / 4; quad < 4; ++quad) {
      const float4 l = *reinterpret_cast<const float4*>(lower + j * kFloatStride + 4 * quad);
      const float entries[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (4 * quad + e > j) x[4 * quad + e] = fmaf(-entries[e], x[j], x[4 * quad + e]);
      }
    }
  }
  __syncwarp();
  // A row of T_ii^T from each lane, back as sums of a product are.
  if (at.lane < 16) {
#pragma unroll
    for (int quad = 0; quad < 4; ++quad) {
      *reinterpret_cast<float4*>(lower + column * kFloatStride + 4 * quad) =
          make_float4(x[4 * quad], x[4 * quad + 1], x[4 * quad + 2], x[4 * quad + 3]);
    }
  }
  __syncwarp();
  BlockSums block;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = *reinterpret_cast<const float2*>(
          lower + (at.g + 8 * half) * kFloatStride + 8 * n + 2 * at.t);
      block[n][2 * half] = pair.x;
      block[n][2 * half + 1] = pair.y;
    }
  }
  store_block(at, shared.diagonal[at.block], to_left(block));
  write_solve<X>(at, beta, at.block, at.block, block, 1.0f, matrices);
  __syncwarp();
}

/// A product alone.
__device__ inline void multiply_split(BlockSums& sums, const SplitOperand& a,
                                      const SplitOperand& b) {
  multiply_split<1>(reinterpret_cast<BlockSums(&)[1]>(sums),
                    reinterpret_cast<const SplitOperand(&)[1]>(a),
                    reinterpret_cast<const SplitOperand(&)[1]>(b));
}

/// T_ij of neighbouring blocks, j = i - 1: -T_ii L_ij T_jj. The others need T_10 and T_32.
template <class X>
__device__ void solve_neighbour(const SolvePlace& at, int i, const float* beta, SolveShared& shared,
                                ChunkMatrices& matrices) {
  BlockSums n = {}, x = {};
  multiply_split(n, load_left(at, shared.diagonal[i - 1]), load_lower(at, shared, i, i - 1));
  multiply_split(x, to_left(n), load_right(at, shared.diagonal[i]));
  if (i != 2) store_block(at, shared.below[i / 2], to_left(x, -1.0f));
  write_solve<X>(at, beta, i, i - 1, x, -1.0f, matrices);
}

/// T_20, T_31 or T_30. kAtOnce: terms of N in registers at a time.
template <class X, int kAtOnce>
__device__ void solve_last(const SolvePlace& at, int i, int j, const float* beta,
                           SolveShared& shared, ChunkMatrices& matrices) {
  BlockSums n[2] = {}, x = {};  // N_ij, N_2j
#pragma unroll kAtOnce
  for (int m = j; m < 2; ++m) {
    const SplitOperand t = load_left(at, m == j ? shared.diagonal[m] : shared.below[0]);
    multiply_split<2>(n, {t, t}, {load_lower(at, shared, i, m), load_lower(at, shared, 2, m)});
  }
  multiply_split(x, to_left(n[0]), load_right(at, shared.diagonal[i]));
  if (i == 3) multiply_split(x, to_left(n[1]), load_right(at, shared.below[1]));
  write_solve<X>(at, beta, i, j, x, -1.0f, matrices);
}

/// The blocks of T below the diagonal, of which the diagonal's must be there: each warp does what
/// it needs again rather than wait for another. `meet`: a barrier of the four warps. OneCode: they
/// share instructions, which is faster beside other warps; else less is in registers.
template <class X, bool OneCode, class Meet>
__device__ void solve_below(const SolvePlace& at, const float* beta, SolveShared& shared,
                            ChunkMatrices& matrices, const Meet& meet) {
  meet();
  if constexpr (OneCode) {
    if (at.block < 3) solve_neighbour<X>(at, at.block + 1, beta, shared, matrices);
  } else {
    if (at.block == 0) solve_neighbour<X>(at, 1, beta, shared, matrices);
    if (at.block == 1) solve_neighbour<X>(at, 2, beta, shared, matrices);
    if (at.block == 2) solve_neighbour<X>(at, 3, beta, shared, matrices);
  }
  meet();
  if constexpr (OneCode) {
    if (at.block == 0) return;
    solve_last<X, 1>(at, at.block == 1 ? 2 : 3, at.block == 2 ? 1 : 0, beta, shared, matrices);
  } else {
    if (at.block == 1) solve_last<X, 2>(at, 2, 0, beta, shared, matrices);
    if (at.block == 2) solve_last<X, 2>(at, 3, 1, beta, shared, matrices);
    if (at.block == 3) solve_last<X, 2>(at, 3, 0, beta, shared, matrices);
  }
}

}  // namespace hybridattn::cuda
