// The half of the chunked delta rule that does not depend on the state: a block for each chunk and
// key head, which serves all value heads of that key head.
#include "hybridattn/ops/l2norm.h"
#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/gdn_decay.cuh"
#include "src/cuda/sm80/gdn_solve.cuh"
#include "src/cuda/sm80/gdn_tile.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPieces = kChunkDim / 8;  // 16-byte pieces of a row of q or k
constexpr int kRowBytes = kPieces * 16;

/// Heads whose gates are summed at once, by a warp each.
constexpr int kHeads = 4;

/// The gates of a head in a chunk.
struct alignas(16) HeadGates {
  float sum_high[kChunk], sum_low[kChunk];  // G / log(2), in two parts
  float beta[kChunk];
  float growth;  // ChunkFactors::growth
};

struct PrepareShared {
  union {  // keys and queries make room for the heads as soon as their products are there
    struct {
      alignas(128) unsigned char k[kChunk * kRowBytes];
      alignas(128) unsigned char q[kChunk * kRowBytes];
    };
    SolveShared solve;
  };
  float key_norm[kChunk], query_norm[kChunk];  // 1 / |k|, scale / |q|
  float key_squares[kChunk];                   // of the keys as they are used
  HeadGates gates[kHeads];
  float columns[4][kChunk];  // exp(G_ref - G_j) r_j, ref the last token before the warp's rows
};

/// Factors of the rows of a tile: scale / |row|, or scale where nothing is normalised; `after`, if
/// there, gets the squares of the rows times their factors.
template <class X>
__device__ void row_norms(const unsigned char* tile, bool normalize, float scale, float* out,
                          float* after = nullptr) {
  const int row = static_cast<int>(threadIdx.x) / 2;
  float sums[2] = {};
#pragma unroll
  for (int i = 0; i < kPieces / 2; ++i) {
    // Eight lanes, a piece of each half of four rows, read from all banks.
    const int half = static_cast<int>(threadIdx.x) % 2;
    const int piece = half * (kPieces / 2) + (i ^ (4 * half));
    const uint4 words = *reinterpret_cast<const uint4*>(tile + swizzled<kRowBytes>(row, piece));
    for (const std::uint32_t word : {words.x, words.y, words.z, words.w}) {
      const float2 pair = unpack<X>(word);
      sums[0] = fmaf(pair.x, pair.x, sums[0]);
      sums[1] = fmaf(pair.y, pair.y, sums[1]);
    }
  }
  float squares = sums[0] + sums[1];
  squares = sum_lanes<2>(squares);
  const float factor = normalize ? scale * inverse_root(squares + kL2NormEpsilon) : scale;
  if (threadIdx.x % 2 == 0) {
    out[row] = factor;
    if (after != nullptr) after[row] = squares * factor * factor;
  }
}

/// Rows of K K^T and Q K^T, those of a thread: of each 8 columns two of row g and two of row g + 8.
struct KeyProducts {
  float kk[8][4], qk[8][4];
};

template <class X>
__device__ void multiply_keys(const PrepareShared& shared, const SolvePlace& at,
                              KeyProducts& products) {
  const std::uint32_t k_tile = shared_address(shared.k);
  const std::uint32_t q_tile = shared_address(shared.q);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) products.kk[n][e] = products.qk[n][e] = 0.0f;
  }
#pragma unroll 1
  for (int step = 0; step < kChunkDim / 16; ++step) {
    std::uint32_t a_k[4], a_q[4];
    const int row = swizzled<kRowBytes>(16 * at.block + at.lane % 16, 2 * step + at.lane / 16);
    load_matrices(a_k, k_tile + row);
    load_matrices(a_q, q_tile + row);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      if (pair > at.block) break;
      std::uint32_t b[4];
      load_matrices(b, k_tile + swizzled<kRowBytes>(16 * pair + at.lane % 8 + at.lane / 16 * 8,
                                                    2 * step + at.lane / 8 % 2));
      multiply_add<X>(products.kk[2 * pair], a_k, b[0], b[1]);
      multiply_add<X>(products.kk[2 * pair + 1], a_k, b[2], b[3]);
      multiply_add<X>(products.qk[2 * pair], a_q, b[0], b[1]);
      multiply_add<X>(products.qk[2 * pair + 1], a_q, b[2], b[3]);
    }
  }
}

__device__ float2 load_float2(const float* at) { return *reinterpret_cast<const float2*>(at); }

/// exp(G_i - G_j).
__device__ float decay_between(const HeadGates& gates, int i, int j) {
  return power_of_two((gates.sum_high[i] - gates.sum_high[j]) +
                      (gates.sum_low[i] - gates.sum_low[j]));
}

/// Decays of whole blocks are products of one factor a row and one a column, none above 1:
/// exp(G_i - G_j) = exp(G_i - G_ref) exp(G_ref - G_j), ref the last token before the row's block.
/// These are the columns'.
__device__ void write_columns(PrepareShared& shared, const HeadGates& gates, const SolvePlace& at) {
  const int first = 16 * at.block;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int j = at.lane + 32 * i;
    shared.columns[at.block][j] =
        j < first ? decay_between(gates, first - 1, j) * shared.key_norm[j] : 0.0f;
  }
  __syncwarp();
}

/// What a thread multiplies its rows with.
struct RowFactors {
  float high[2], low[2];     // G / log(2)
  float entry[2], query[2];  // beta r, scale / |q|
  float decay[2];            // exp(G - G_ref)

  __device__ RowFactors(const PrepareShared& shared, const HeadGates& gates, const SolvePlace& at) {
    const int before = max(16 * at.block - 1, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 16 * at.block + at.g + 8 * half;
      high[half] = gates.sum_high[i];
      low[half] = gates.sum_low[i];
      entry[half] = gates.beta[i] * shared.key_norm[i];
      query[half] = shared.query_norm[i];
      decay[half] =
          power_of_two((high[half] - gates.sum_high[before]) + (low[half] - gates.sum_low[before]));
    }
  }
};

/// The two blocks of 8 columns on the diagonal: L as floats for the substitution, with anything
/// above its diagonal; P as words of an operand.
template <class X>
__device__ void scale_diagonal(PrepareShared& shared, const HeadGates& gates, const SolvePlace& at,
                               const RowFactors& rows, int n, const float (&kk)[4],
                               const float (&qk)[4], std::uint32_t (&words)[2]) {
  const int column = 8 * n + 2 * at.t;  // in the block
  const int j = 16 * at.block + column;
  const float2 high = load_float2(&gates.sum_high[j]), low = load_float2(&gates.sum_low[j]);
  const float2 norm = load_float2(&shared.key_norm[j]);
  float* to = shared.solve.floats[at.block] + column * kFloatStride + at.g;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = at.g + 8 * half;
    const float decay[2] = {
        power_of_two((rows.high[half] - high.x) + (rows.low[half] - low.x)) * norm.x,
        power_of_two((rows.high[half] - high.y) + (rows.low[half] - low.y)) * norm.y};
    to[8 * half] = rows.entry[half] * decay[0] * kk[2 * half];
    to[8 * half + kFloatStride] = rows.entry[half] * decay[1] * kk[2 * half + 1];
    // Above the diagonal the decay is over 1, and may be infinite.
    words[half] =
        pack<X>(column <= row ? rows.query[half] * decay[0] * qk[2 * half] : 0.0f,
                column + 1 <= row ? rows.query[half] * decay[1] * qk[2 * half + 1] : 0.0f);
  }
}

/// 16 columns left of the diagonal block: L as an operand in shared memory, P as words of one.
template <class X>
__device__ void scale_block(PrepareShared& shared, const SolvePlace& at, const RowFactors& rows,
                            int m, const float (&kk)[8][4], const float (&qk)[8][4],
                            std::uint32_t (&words)[4]) {
  SplitOperand split;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 column = load_float2(&shared.columns[at.block][16 * m + 8 * n + 2 * at.t]);
    const auto& k = kk[2 * m + n];
    const auto& q = qk[2 * m + n];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float entry = rows.entry[half] * rows.decay[half];
      const float query = rows.query[half] * rows.decay[half];
      split.set(2 * half + n, k[2 * half] * column.x * entry, k[2 * half + 1] * column.y * entry);
      words[2 * n + half] =
          pack<X>(q[2 * half] * column.x * query, q[2 * half + 1] * column.y * query);
    }
  }
  store_lower(at, shared.solve, m, split);
}

__device__ std::uint32_t scores_address(const SolveShared& shared, const SolvePlace& at, int m) {
  return shared_address(shared.matrices.columns[m][kScores]) +
         narrow_swizzled(16 * at.block + at.lane % 16, at.lane / 16);
}

/// L and P to shared memory.
template <class X>
__device__ void scale_products(PrepareShared& shared, const HeadGates& gates, const SolvePlace& at,
                               const KeyProducts& products) {
  const RowFactors rows(shared, gates, at);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    std::uint32_t words[4];
    if (m < at.block && m < 3) {
      scale_block<X>(shared, at, rows, m, products.kk, products.qk, words);
      store_matrices(scores_address(shared.solve, at, m), words);
    } else if (m == at.block) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        std::uint32_t pair[2];
        scale_diagonal<X>(shared, gates, at, rows, n, products.kk[2 * m + n],
                          products.qk[2 * m + n], pair);
        words[2 * n] = pair[0];
        words[2 * n + 1] = pair[1];
      }
      store_matrices(scores_address(shared.solve, at, m), words);
    }
  }
  __syncwarp();
}

/// P T in the place of P, the warp's rows: what a piece of P T replaces is not needed by the next.
template <class X>
__device__ void multiply_scores(SolveShared& shared, const SolvePlace& at) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    if (pair > at.block) break;
    float sums[2][4] = {};
#pragma unroll
    for (int step = pair; step < 4; ++step) {  // T is 0 above its diagonal, P above its own
      if (step > at.block) break;
      std::uint32_t a[4], b[4];
      load_matrices(a, scores_address(shared, at, step));
      load_transposed(b, shared_address(shared.matrices.columns[pair][kSolve]) +
                             narrow_swizzled(16 * step + at.lane % 16, at.lane / 16));
      multiply_add<X>(sums[0], a, b[0], b[1]);
      multiply_add<X>(sums[1], a, b[2], b[3]);
    }
    store_matrices(scores_address(shared, at, pair),
                   {pack<X>(sums[0][0], sums[0][1]), pack<X>(sums[0][2], sums[0][3]),
                    pack<X>(sums[1][0], sums[1][1]), pack<X>(sums[1][2], sums[1][3])});
  }
}

/// The gates of a head, by one warp.
__device__ void write_gates(const LaneGates& lane_gates, const float (&key_squares)[kChunk],
                            HeadGates& gates) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  sum_decays(lane_gates, gates.sum_high, gates.sum_low);
  *reinterpret_cast<float2*>(&gates.beta[2 * lane]) =
      make_float2(lane_gates.beta[0], lane_gates.beta[1]);
  // I - beta k k^T has the norm 1, or |1 - beta |k|^2| where that is more.
  const float2 squares = load_float2(&key_squares[2 * lane]);
  // Nothing is known of what is not a number: it stays.
  const float norms[2] = {fabsf(1.0f - lane_gates.beta[0] * squares.x),
                          fabsf(1.0f - lane_gates.beta[1] * squares.y)};
  const float growth = sum_lanes(
      __log2f((norms[0] <= 1.0f ? 1.0f : norms[0]) * (norms[1] <= 1.0f ? 1.0f : norms[1])));
  __syncwarp();
  if (lane == 0) gates.growth = growth + gates.sum_high[kChunk - 1] + gates.sum_low[kChunk - 1];
}

__device__ void write_factors(const PrepareShared& shared, const HeadGates& gates,
                              const SolvePlace& at, ChunkFactors& factors) {
  const int i = 32 * (at.block % 2) + at.lane;
  if (at.block < 2) {
    const float decay = power_of_two(gates.sum_high[i] + gates.sum_low[i]);
    factors.key_factor[i] = decay * shared.key_norm[i];
    factors.query_factor[i] = decay * shared.query_norm[i];
    if (i == kChunk - 1) {
      factors.state_factor = decay;
      factors.growth = gates.growth;
    }
  } else {
    factors.update_factor[i] = decay_between(gates, kChunk - 1, i) * shared.key_norm[i];
  }
}

__device__ void write_record(const ChunkMatrices& matrices, const SolvePlace& at,
                             ChunkRecord& record) {
  const auto* from = reinterpret_cast<const unsigned char*>(&matrices);
#pragma unroll
  for (int i = 0; i < kLowerBlocks / 4; ++i) {
    const int block = 4 * i + at.block;
    reinterpret_cast<uint4*>(record.matrices[block])[at.lane] =
        reinterpret_cast<const uint4*>(from + matrix_byte(block))[at.lane];
  }
}

template <class X>
__global__ void __launch_bounds__(kThreads, 4)
    prepare_kernel(const __grid_constant__ ChunkParams p) {
  extern __shared__ unsigned char raw[];
  PrepareShared& shared = *reinterpret_cast<PrepareShared*>(raw);
  const auto chunk = static_cast<int>(blockIdx.x);
  const int index = p.rows.chunk_row[chunk];
  if (index < 0 || p.rows.slot[index] == kPadIndex) return;
  const int first_token = (chunk - p.rows.first_chunk[index]) * kChunk;
  const int count = min(kChunk, p.rows.length[index] - first_token);
  const std::int64_t first = p.rows.start[index] + first_token;
  const auto k_head = static_cast<int>(blockIdx.y);
  load_tile<X, kChunkDim, kThreads>(shared.k, p.k, first, count, k_head);
  load_tile<X, kChunkDim, kThreads>(shared.q, p.q, first, count, k_head);
  commit_copies();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  LaneGates lane_gates(p, first, warp < p.group ? count : 0, k_head * p.group + warp);
  wait_copies<0>();
  __syncthreads();
  row_norms<X>(shared.k, p.qk_l2norm, 1.0f, shared.key_norm, shared.key_squares);
  row_norms<X>(shared.q, p.qk_l2norm, p.scale, shared.query_norm);
  // The last rows have the most columns: each block gives them to another warp, as warps have
  // quarters of the multiprocessor of their own.
  const int block = (warp + chunk + k_head) % 4;
  KeyProducts products;
  multiply_keys<X>(shared, SolvePlace(block), products);
  for (int h = 0; h < p.group; ++h) {
    const int head = k_head * p.group + h;
    if (h % kHeads == 0) {
      __syncthreads();
      if (h > 0) {
        lane_gates = LaneGates(p, first, h + warp < p.group ? count : 0, head + warp);
      }
      write_gates(lane_gates, shared.key_squares, shared.gates[warp]);
    }
    __syncthreads();
    const SolvePlace at(block);
    const HeadGates& gates = shared.gates[h % kHeads];
    ChunkRecord& record = p.records[std::int64_t{chunk} * p.v_heads + head];
    write_columns(shared, gates, at);
    scale_products<X>(shared, gates, at, products);
    write_factors(shared, gates, at, record.factors);
    solve_diagonal<X>(at, gates.beta, shared.solve);
    solve_below<X>(at, gates.beta, shared.solve);
    __syncthreads();
    multiply_scores<X>(shared.solve, at);
    __syncthreads();
    write_record(shared.solve.matrices, at, record);
  }
}

}  // namespace

template <class X>
Status prepare_chunks(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(PrepareShared));
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", prepare_kernel<X>, kBytes));
  const dim3 grid(static_cast<unsigned>(p.rows.chunks), static_cast<unsigned>(p.k_heads));
  prepare_kernel<X><<<grid, kThreads, kBytes, stream_of(launch)>>>(p);
  return check_launch("gdn_prefill");
}

template Status prepare_chunks<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status prepare_chunks<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
