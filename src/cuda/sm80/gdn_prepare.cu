// The half of the chunked delta rule that does not depend on the state: a block for each chunk and
// key head, which serves all value heads of that key head.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/gdn_scale.cuh"
#include "src/cuda/sm80/gdn_tile.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPieces = kChunkDim / 8;  // 16-byte pieces of a row of q or k
constexpr int kRowBytes = kPieces * 16;

/// Heads whose gates are summed at once, by a warp each.
constexpr int kHeads = 4;

struct PrepareShared {
  union {  // keys and queries make room for the heads as soon as their products are there
    struct {
      alignas(128) unsigned char k[kChunk * kRowBytes];
      alignas(128) unsigned char q[kChunk * kRowBytes];
    };
    struct {
      alignas(128) ChunkMatrices matrices;  // T; P, then P T
      SolveShared solve;
    };
  };
  RowNorms norms;
  float key_squares[kChunk];  // of the keys as they are used
  HeadGates gates[kHeads];
  ColumnFactors columns;
};

/// Factors of the rows of a tile; `after`, if there, gets the squares of the rows times these.
template <class X>
__device__ void row_norms(const unsigned char* tile, bool normalize, float scale, float* out,
                          float* after = nullptr) {
  const int row = static_cast<int>(threadIdx.x) / 2;
  const int half = static_cast<int>(threadIdx.x) % 2;
  const float squares = row_squares<X, 8>([&](int i) {
    // Eight lanes, a piece of each half of four rows, read from all banks.
    const int piece = half * (kPieces / 2) + (i ^ (4 * half));
    return *reinterpret_cast<const uint4*>(tile + swizzled<kRowBytes>(row, piece));
  });
  const float factor = row_factor(squares, normalize, scale);
  if (half == 0) {
    out[row] = factor;
    if (after != nullptr) after[row] = squares * factor * factor;
  }
}

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

__device__ void write_columns(PrepareShared& shared, const HeadGates& gates, const SolvePlace& at) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int j = at.lane + 32 * i;
    shared.columns[at.block][j] = column_factor(gates, shared.norms, at.block, j);
  }
  __syncwarp();
}

// scale_lower and scale_scores column by column: in one piece they would spill beside the products,
// which stay for all heads.

/// 16 columns of L to shared memory: on the diagonal as floats for the substitution, with anything
/// above it; left of it as an operand.
__device__ void scale_lower_columns(SolveShared& solve, const ScaleInputs& in, const SolvePlace& at,
                                    const RowFactors& rows, int m, const float (&kk)[8][4]) {
  if (m == at.block) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = 8 * n + 2 * at.t;
      const DiagonalDecays decays(in, rows, at.block, column);
      float* to = solve.floats[at.block] + column * kFloatStride + at.g;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* k = &kk[2 * m + n][2 * half];
        to[8 * half] = rows.entry[half] * decays.of[half][0] * k[0];
        to[8 * half + kFloatStride] = rows.entry[half] * decays.of[half][1] * k[1];
      }
    }
  } else if (m < at.block && m < 3) {
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
}

/// 16 columns of P as words of a left operand, zeros above the diagonal.
template <class X>
__device__ void scale_score_columns(const ScaleInputs& in, const SolvePlace& at,
                                    const RowFactors& rows, int m, const float (&qk)[8][4],
                                    std::uint32_t (&words)[4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int column = 8 * n + 2 * at.t;
    if (m == at.block) {
      const DiagonalDecays decays(in, rows, at.block, column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = at.g + 8 * half;
        const float* q = &qk[2 * m + n][2 * half];
        const auto score = [&](int e) {
          return column + e <= row ? rows.query[half] * decays.of[half][e] * q[e] : 0.0f;
        };
        words[2 * n + half] = pack<X>(score(0), score(1));
      }
    } else if (m < at.block && m < 3) {
      const float2 factor = load_float2(&in.columns[at.block][16 * m + column]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* q = &qk[2 * m + n][2 * half];
        const float query = rows.query[half] * rows.decay[half];
        words[2 * n + half] = pack<X>(q[0] * factor.x * query, q[1] * factor.y * query);
      }
    } else {
      words[2 * n] = words[2 * n + 1] = 0;
    }
  }
}

/// L and P to shared memory.
template <class X>
__device__ void scale_products(PrepareShared& shared, const HeadGates& gates, const SolvePlace& at,
                               const KeyProducts& products) {
  const ScaleInputs in{gates, shared.norms, shared.columns};
  const RowFactors rows(shared.norms, gates, at);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    if (m > at.block) break;
    std::uint32_t words[4];
    scale_lower_columns(shared.solve, in, at, rows, m, products.kk);
    scale_score_columns<X>(in, at, rows, m, products.qk, words);
    store_matrices(scores_address(shared.matrices, at, m), words);
  }
  __syncwarp();
}

/// P T in the place of P, the warp's rows: what a piece of P T replaces is not needed by the next.
template <class X>
__device__ void multiply_scores(ChunkMatrices& matrices, const SolvePlace& at) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    if (pair > at.block) break;
    float sums[2][4] = {};
#pragma unroll
    for (int step = pair; step < 4; ++step) {  // T is 0 above its diagonal, P above its own
      if (step > at.block) break;
      std::uint32_t a[4], b[4];
      load_matrices(a, scores_address(matrices, at, step));
      load_transposed(b, shared_address(matrices.columns[pair][kSolve]) +
                             narrow_swizzled(16 * step + at.lane % 16, at.lane / 16));
      multiply_add<X>(sums[0], a, b[0], b[1]);
      multiply_add<X>(sums[1], a, b[2], b[3]);
    }
    store_matrices(scores_address(matrices, at, pair),
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
    write_state_factors(gates, shared.norms, i, factors);
    if (i == kChunk - 1) factors.growth = gates.growth;
  } else {
    write_update_factor(gates, shared.norms, i, factors);
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
  let_next_begin();
  wait_for_writers();
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
  row_norms<X>(shared.k, p.qk_l2norm, 1.0f, shared.norms.key, shared.key_squares);
  row_norms<X>(shared.q, p.qk_l2norm, p.scale, shared.norms.query);
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
    solve_diagonal<X>(at, gates.beta, shared.solve, shared.matrices);
    solve_below<X, false>(at, gates.beta, shared.solve, shared.matrices, [] { __syncthreads(); });
    __syncthreads();
    multiply_scores<X>(shared.matrices, at);
    __syncthreads();
    write_record(shared.matrices, at, record);
  }
}

}  // namespace

template <class X>
Status prepare_chunks(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(PrepareShared));
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", prepare_kernel<X>, kBytes));
  const dim3 grid(static_cast<unsigned>(p.rows.chunks), static_cast<unsigned>(p.k_heads));
  return launch_early("gdn_prefill", launch, prepare_kernel<X>, grid, kThreads, kBytes, p);
}

template Status prepare_chunks<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status prepare_chunks<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
