// From products of keys and queries to what a chunk is solved from, by four warps: L and P of
// gdn_chunk.cuh, in blocks of 16 rows of a warp.
#pragma once

#include "hybridattn/ops/l2norm.h"
#include "src/cuda/sm80/gdn_decay.cuh"
#include "src/cuda/sm80/gdn_solve.cuh"

namespace hybridattn::cuda {

/// Factors of a chunk's rows of K and Q.
struct alignas(16) RowNorms {
  float key[kChunk], query[kChunk];  // 1 / |k|, scale / |q|
};

/// The gates of a head in a chunk.
struct alignas(16) HeadGates {
  float sum_high[kChunk], sum_low[kChunk];  // G / log(2), in two parts
  float beta[kChunk];
  float growth;  // ChunkFactors::growth
};

/// exp(G_ref - G_j) r_j by the warp whose rows they are for, ref the last token before these.
using ColumnFactors = float[4][kChunk];

/// The sum of squares of a row of 128 channels, by two neighbouring lanes: `half`, which of them.
/// A lane has 8 pieces, load(i), AtOnce in registers at a time.
template <class X, int AtOnce, class Load>
__device__ float row_squares(const Load& load) {
  float sums[2] = {};
#pragma unroll AtOnce
  for (int i = 0; i < kChunkDim / 16; ++i) {
    const uint4 words = load(i);
    for (const std::uint32_t word : {words.x, words.y, words.z, words.w}) {
      const float2 pair = unpack<X>(word);
      sums[0] = fmaf(pair.x, pair.x, sums[0]);
      sums[1] = fmaf(pair.y, pair.y, sums[1]);
    }
  }
  return sum_lanes<2>(sums[0] + sums[1]);
}

/// scale / |row|, or scale where nothing is normalised.
__device__ inline float row_factor(float squares, bool normalize, float scale) {
  return normalize ? scale * inverse_root(squares + kL2NormEpsilon) : scale;
}

/// Rows of K K^T and Q K^T, those of a thread: of each 8 columns two of row g and two of row g + 8.
struct KeyProducts {
  float kk[8][4], qk[8][4];
};

__device__ inline float2 load_float2(const float* at) {
  return *reinterpret_cast<const float2*>(at);
}

/// exp(G_i - G_j).
__device__ inline float decay_between(const HeadGates& gates, int i, int j) {
  return power_of_two((gates.sum_high[i] - gates.sum_high[j]) +
                      (gates.sum_low[i] - gates.sum_low[j]));
}

/// Decays of whole blocks are products of one factor a row and one a column, none above 1:
/// exp(G_i - G_j) = exp(G_i - G_ref) exp(G_ref - G_j), ref the last token before the row's block.
/// This is the column's, of the rows of block `block`.
__device__ inline float column_factor(const HeadGates& gates, const RowNorms& norms, int block,
                                      int j) {
  const int first = 16 * block;
  return j < first ? decay_between(gates, first - 1, j) * norms.key[j] : 0.0f;
}

/// What the products of a chunk are scaled with.
struct ScaleInputs {
  const HeadGates& gates;
  const RowNorms& norms;
  const ColumnFactors& columns;
};

/// What a thread multiplies its rows with.
struct RowFactors {
  float high[2], low[2];     // G / log(2)
  float entry[2], query[2];  // beta r, scale / |q|
  float decay[2];            // exp(G - G_ref)

  __device__ RowFactors(const RowNorms& norms, const HeadGates& gates, const SolvePlace& at) {
    const int block = at.block;
    const int before = max(16 * block - 1, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 16 * block + at.g + 8 * half;
      high[half] = gates.sum_high[i];
      low[half] = gates.sum_low[i];
      entry[half] = gates.beta[i] * norms.key[i];
      query[half] = norms.query[i];
      decay[half] =
          power_of_two((high[half] - gates.sum_high[before]) + (low[half] - gates.sum_low[before]));
    }
  }
};

/// exp(G_i - G_j) r_j on the diagonal, for the thread's rows and its columns `column` and the next
/// of the block. Above the diagonal it is over r_j, and may be infinite.
struct DiagonalDecays {
  float of[2][2];  // by row and column

  __device__ DiagonalDecays(const ScaleInputs& in, const RowFactors& rows, int block, int column) {
    const HeadGates& gates = in.gates;
    const RowNorms& norms = in.norms;
    const int j = 16 * block + column;
    const float2 high = load_float2(&gates.sum_high[j]), low = load_float2(&gates.sum_low[j]);
    const float2 norm = load_float2(&norms.key[j]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      of[half][0] = power_of_two((rows.high[half] - high.x) + (rows.low[half] - low.x)) * norm.x;
      of[half][1] = power_of_two((rows.high[half] - high.y) + (rows.low[half] - low.y)) * norm.y;
    }
  }
};

/// The sums of the warp's 16 columns on the diagonal.
struct DiagonalSums {
  float of[2][4];

  __device__ DiagonalSums(const float (&products)[8][4], int block) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        of[n][e] = products[n][e];
#pragma unroll
        for (int m = 1; m < 4; ++m) {
          if (m == block) of[n][e] = products[2 * m + n][e];
        }
      }
    }
  }
};

/// The rows of L of the warp's block to shared memory: on the diagonal as floats for the
/// substitution, with anything above it; left of it as operands.
__device__ inline void scale_lower(SolveShared& solve, const ScaleInputs& in, const SolvePlace& at,
                                   const RowFactors& rows, const float (&kk)[8][4]) {
#pragma unroll
  for (int m = 0; m < 3; ++m) {
    if (m >= at.block) break;
    SplitOperand split;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 column = load_float2(&in.columns[at.block][16 * m + 8 * n + 2 * at.t]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* k = &kk[2 * m + n][2 * half];
        const float entry = rows.entry[half] * rows.decay[half];
        split.set(2 * half + n, k[0] * column.x * entry, k[1] * column.y * entry);
      }
    }
    store_lower(solve, at.block, m, at.lane, split);
  }
  const DiagonalSums sums(kk, at.block);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int column = 8 * n + 2 * at.t;
    const DiagonalDecays decays(in, rows, at.block, column);
    float* to = solve.floats[at.block] + column * kFloatStride + at.g;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* k = &sums.of[n][2 * half];
      to[8 * half] = rows.entry[half] * decays.of[half][0] * k[0];
      to[8 * half + kFloatStride] = rows.entry[half] * decays.of[half][1] * k[1];
    }
  }
}

/// Where a lane has its piece of 16 columns of P and of P T, its warp's rows.
__device__ inline std::uint32_t scores_address(const ChunkMatrices& matrices, const SolvePlace& at,
                                               int m) {
  return shared_address(matrices.columns[m][kScores]) +
         narrow_swizzled(16 * at.block + at.lane % 16, at.lane / 16);
}

/// The same rows of P to the place of P T.
template <class X>
__device__ void scale_scores(ChunkMatrices& matrices, const ScaleInputs& in, const SolvePlace& at,
                             const RowFactors& rows, const float (&qk)[8][4]) {
  std::uint32_t words[4];
#pragma unroll
  for (int m = 0; m < 3; ++m) {
    if (m >= at.block) break;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 column = load_float2(&in.columns[at.block][16 * m + 8 * n + 2 * at.t]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* q = &qk[2 * m + n][2 * half];
        const float query = rows.query[half] * rows.decay[half];
        words[2 * n + half] = pack<X>(q[0] * column.x * query, q[1] * column.y * query);
      }
    }
    store_matrices(scores_address(matrices, at, m), words);
  }
  const DiagonalSums sums(qk, at.block);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int column = 8 * n + 2 * at.t;
    const DiagonalDecays decays(in, rows, at.block, column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.g + 8 * half;
      const auto score = [&](int e) {  // above the diagonal the decay may be infinite
        const float q = sums.of[n][2 * half + e];
        return column + e <= row ? rows.query[half] * decays.of[half][e] * q : 0.0f;
      };
      words[2 * n + half] = pack<X>(score(0), score(1));
    }
  }
  store_matrices(scores_address(matrices, at, at.block), words);
}

/// What the state is multiplied with: the factors of token i.
__device__ inline void write_state_factors(const HeadGates& gates, const RowNorms& norms, int i,
                                           ChunkFactors& factors) {
  const float decay = power_of_two(gates.sum_high[i] + gates.sum_low[i]);
  factors.key_factor[i] = decay * norms.key[i];
  factors.query_factor[i] = decay * norms.query[i];
  if (i == kChunk - 1) factors.state_factor = decay;
}
/// What token i is added to the state with.
__device__ inline void write_update_factor(const HeadGates& gates, const RowNorms& norms, int i,
                                           ChunkFactors& factors) {
  factors.update_factor[i] = decay_between(gates, kChunk - 1, i) * norms.key[i];
}

}  // namespace hybridattn::cuda
