// The half of the chunked delta rule that does not depend on the state: a block for each chunk and
// key head, which serves all value heads of that key head.
#include "hybridattn/ops/l2norm.h"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/mma.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPieces = kChunkDim / 8;  // 16-byte pieces of a row of q or k
constexpr int kRowBytes = kPieces * 16;
/// Floats of a row of L: fragments of 8 rows and 4 columns hit 32 banks.
constexpr int kStride = 72;

/// Heads whose gates are summed at once, by a warp each.
constexpr int kHeads = 4;

/// The products of a thread's fragments, K K^T and Q K^T: they take the place of K and Q, which
/// leaves registers for more blocks.
struct KeyProducts {
  float4 kk[8][kThreads];
  float4 qk[8][kThreads];
};

struct PrepareShared {
  union {
    struct {
      alignas(128) unsigned char k[kChunk * kChunkDim * 2];
      alignas(128) unsigned char q[kChunk * kChunkDim * 2];
    };
    KeyProducts products;
  };
  float matrix[kChunk * kStride];                           // L, then (I + L)^-1
  alignas(128) unsigned char solve[kChunk * kChunk * 2];    // T, as in the record
  float product[4][32 * 8];                                 // of each warp
  float key_norm[kChunk], query_norm[kChunk];               // 1 / |k|, scale / |q|
  float sum_high[kHeads][kChunk], sum_low[kHeads][kChunk];  // G / log(2), in two parts
  float beta[kHeads][kChunk];
};

template <class X>
__device__ void load_tile(unsigned char* tile, const View& x, std::int64_t first, int count,
                          int head) {
  const std::uint32_t base = shared_address(tile);
#pragma unroll
  for (int i = 0; i < kChunk * kPieces / kThreads; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = at / kPieces;
    const int piece = at % kPieces;
    const bool valid = row < count;
    const X* from = x.as<const X>() + x.at(first + (valid ? row : 0), head, piece * 8);
    copy_async(base + swizzled<kRowBytes>(row, piece), from, valid);
  }
}

/// Factors of the rows of a tile: scale / |row|, or scale where nothing is normalised.
template <class X>
__device__ void row_norms(const unsigned char* tile, bool normalize, float scale, float* out) {
  const int row = static_cast<int>(threadIdx.x) / 2;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPieces / 2; ++i) {
    const int piece = i * 2 + static_cast<int>(threadIdx.x) % 2;
    const uint4 words = *reinterpret_cast<const uint4*>(tile + swizzled<kRowBytes>(row, piece));
    for (const std::uint32_t word : {words.x, words.y, words.z, words.w}) {
      const float2 pair = unpack<X>(word);
      squares = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, squares));
    }
  }
  squares = sum_lanes<2>(squares);
  const float factor = normalize ? scale * inverse_root(squares + kL2NormEpsilon) : scale;
  if (threadIdx.x % 2 == 0) out[row] = factor;
}

/// The running sum of log decays of a chunk, in two floats, over log(2). By one warp.
__device__ void sum_decays(const ChunkParams& p, std::int64_t first, int count, int head,
                           PrepareShared& shared, int slot) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double sums[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * lane + i;
    float g = 0.0f, beta = 0.0f;
    if (token < count) {
      g = clamp_log_decay(p.log_decay.as<const float>()[p.log_decay.at(first + token, head)]);
      beta = p.beta.as<const float>()[p.beta.at(first + token, head)];
    }
    sums[i] = double(g) * 1.4426950408889634 + (i > 0 ? sums[0] : 0.0);
    shared.beta[slot][token] = beta;
  }
  double before = sums[1];
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double other = __shfl_up_sync(kAllLanes, before, offset);
    if (lane >= offset) before += other;
  }
  before -= sums[1];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const double sum = before + sums[i];
    const auto high = static_cast<float>(sum);
    shared.sum_high[slot][2 * lane + i] = high;
    shared.sum_low[slot][2 * lane + i] = static_cast<float>(sum - double(high));
  }
}

/// exp(G_i - G_j).
__device__ float decay_between(const PrepareShared& shared, int slot, int i, int j) {
  return power_of_two((shared.sum_high[slot][i] - shared.sum_high[slot][j]) +
                      (shared.sum_low[slot][i] - shared.sum_low[slot][j]));
}

/// Rows [16 block, 16 block + 16) of K K^T and Q K^T up to the diagonal.
template <class X>
__device__ void key_products(PrepareShared& shared, int block) {
  float kk[8][4], qk[8][4];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t k_tile = shared_address(shared.k);
  const std::uint32_t q_tile = shared_address(shared.q);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) kk[n][e] = qk[n][e] = 0.0f;
  }
#pragma unroll 1
  for (int step = 0; step < kChunkDim / 16; ++step) {
    std::uint32_t a_k[4], a_q[4];
    const int a_at = swizzled<kRowBytes>(16 * block + lane % 16, 2 * step + lane / 16);
    load_matrices(a_k, k_tile + a_at);
    load_matrices(a_q, q_tile + a_at);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      if (pair > block) break;
      std::uint32_t b[4];
      load_matrices(b, k_tile + swizzled<kRowBytes>(16 * pair + lane % 8 + lane / 16 * 8,
                                                    2 * step + lane / 8 % 2));
      multiply_add<X>(kk[2 * pair], a_k, b[0], b[1]);
      multiply_add<X>(kk[2 * pair + 1], a_k, b[2], b[3]);
      multiply_add<X>(qk[2 * pair], a_q, b[0], b[1]);
      multiply_add<X>(qk[2 * pair + 1], a_q, b[2], b[3]);
    }
  }
  __syncthreads();  // everybody has read K and Q
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    if (n / 2 > block) break;
    shared.products.kk[n][threadIdx.x] = make_float4(kk[n][0], kk[n][1], kk[n][2], kk[n][3]);
    shared.products.qk[n][threadIdx.x] = make_float4(qk[n][0], qk[n][1], qk[n][2], qk[n][3]);
  }
}

__device__ float2 load_float2(const float* at) { return *reinterpret_cast<const float2*>(at); }

/// L to shared memory, P as the left operand of a product.
template <class X>
__device__ void write_products(PrepareShared& shared, int block, int slot,
                               std::uint32_t (&operand)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int t = lane % 4;
  const int row = 16 * block + lane / 4;
  float beta[2], query[2], high[2], low[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = row + 8 * half;
    beta[half] = shared.beta[slot][i] * shared.key_norm[i];
    query[half] = shared.query_norm[i];
    high[half] = shared.sum_high[slot][i];
    low[half] = shared.sum_low[slot][i];
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const bool below = n / 2 <= block;
    const int j = 8 * n + 2 * t;
    float kk[4] = {}, qk[4] = {};
    float2 high_j{}, low_j{}, norm_j{};
    if (below) {
      const float4 k = shared.products.kk[n][threadIdx.x];
      const float4 q = shared.products.qk[n][threadIdx.x];
      kk[0] = k.x, kk[1] = k.y, kk[2] = k.z, kk[3] = k.w;
      qk[0] = q.x, qk[1] = q.y, qk[2] = q.z, qk[3] = q.w;
      high_j = load_float2(&shared.sum_high[slot][j]);
      low_j = load_float2(&shared.sum_low[slot][j]);
      norm_j = load_float2(&shared.key_norm[j]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = row + 8 * half;
      float scores[2] = {0.0f, 0.0f}, entries[2] = {0.0f, 0.0f};
      if (below) {
        // exp(G_i - G_j), which is at most 1 where it counts.
        const float decay[2] = {
            power_of_two((high[half] - high_j.x) + (low[half] - low_j.x)) * norm_j.x,
            power_of_two((high[half] - high_j.y) + (low[half] - low_j.y)) * norm_j.y};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (j + e <= i) scores[e] = query[half] * decay[e] * qk[2 * half + e];
          if (j + e < i) entries[e] = beta[half] * decay[e] * kk[2 * half + e];
        }
      }
      // Zeros above the diagonal: the products of whole halves read them.
      *reinterpret_cast<float2*>(shared.matrix + i * kStride + j) =
          make_float2(entries[0], entries[1]);
      operand[n / 2][n % 2 * 2 + half] = pack<X>(scores[0], scores[1]);
    }
  }
}

/// The four diagonal blocks of 16: I + L becomes its inverse. A thread for each column.
__device__ void invert_diagonal(float* matrix) {
  const int tid = static_cast<int>(threadIdx.x);
  if (tid >= kChunk) return;
  float* block = matrix + (tid / 16) * 16 * (kStride + 1);
  const int column = tid % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sum = i == column ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
      if (j >= i) continue;
      const float4 row = *reinterpret_cast<const float4*>(block + i * kStride + j);
      const float entries[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (j + e < i) sum = fmaf(-entries[e], x[j + e], sum);
      }
    }
    x[i] = sum;
  }
  __syncwarp();  // the two blocks of a warp are read to the end
#pragma unroll
  for (int i = 0; i < 16; ++i) block[i * kStride + column] = x[i];
}

/// With A = [[T1, 0], [L, T2]] of halves of Size: L becomes -T2 L T1. A warp does 8 columns,
/// `first`. T1 and T2 are lower triangles, whose zeros are left out by blocks.
template <int Size>
__device__ void join_halves(float* corner, int first, float* product) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  float* lower = corner + Size * kStride;
  float sums[Size / 16][4];
#pragma unroll
  for (int m = 0; m < Size / 16; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[m][e] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < Size / 8; ++step) {
    if (8 * step < first) continue;
    const SplitColumns b(corner + 8 * step * kStride + first, kStride);
#pragma unroll
    for (int m = 0; m < Size / 16; ++m) {
      multiply_add_float(sums[m], lower + 16 * m * kStride + 8 * step, kStride, b);
    }
  }
#pragma unroll
  for (int m = 0; m < Size / 16; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      product[(16 * m + g + e / 2 * 8) * 8 + 2 * t + e % 2] = sums[m][e];
      sums[m][e] = 0.0f;
    }
  }
  __syncwarp();
#pragma unroll
  for (int step = 0; step < Size / 8; ++step) {
    const SplitColumns b(product + 8 * step * 8, 8);
#pragma unroll
    for (int m = 0; m < Size / 16; ++m) {
      if (8 * step >= 16 * (m + 1)) continue;
      multiply_add_float(sums[m], lower + 16 * m * kStride + Size + 8 * step, kStride, b);
    }
  }
  __syncthreads();  // everybody has read L
#pragma unroll
  for (int m = 0; m < Size / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(lower + (16 * m + g + 8 * half) * kStride + first + 2 * t) =
          make_float2(-sums[m][2 * half], -sums[m][2 * half + 1]);
    }
  }
  __syncthreads();
}

/// (I + L)^-1 in place, in float throughout.
__device__ void invert(PrepareShared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  invert_diagonal(shared.matrix);
  __syncthreads();
  join_halves<16>(shared.matrix + warp / 2 * 32 * (kStride + 1), warp % 2 * 8,
                  shared.product[warp]);
  join_halves<32>(shared.matrix, warp * 8, shared.product[warp]);
}

template <class X>
__device__ void write_solve(PrepareShared& shared, ChunkRecord& record, int slot) {
#pragma unroll
  for (int part = 0; part < kChunk * 8 / kThreads; ++part) {
    const int at = part * kThreads + static_cast<int>(threadIdx.x);
    const int i = at / 8;
    const int piece = at % 8;
    std::uint32_t words[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int j = 8 * piece + 2 * e;
      const float* from = shared.matrix + i * kStride + j;
      words[e] = pack<X>(j <= i ? from[0] * shared.beta[slot][j] : 0.0f,
                         j + 1 <= i ? from[1] * shared.beta[slot][j + 1] : 0.0f);
    }
    const uint4 row = make_uint4(words[0], words[1], words[2], words[3]);
    *reinterpret_cast<uint4*>(record.solve + swizzled(i, piece)) = row;
    *reinterpret_cast<uint4*>(shared.solve + swizzled(i, piece)) = row;
  }
}

/// P T of the warp's rows.
template <class X>
__device__ void write_scores(const PrepareShared& shared, ChunkRecord& record, int block,
                             const std::uint32_t (&scores)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t tile = shared_address(shared.solve);
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    float sums[2][4] = {};
    if (pair <= block) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (step < pair || step > block) continue;  // T is 0 above its diagonal, P above its own
        std::uint32_t b[4];
        load_transposed(b, tile + swizzled(16 * step + lane % 16, 2 * pair + lane / 16));
        multiply_add<X>(sums[0], scores[step], b[0], b[1]);
        multiply_add<X>(sums[1], scores[step], b[2], b[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<std::uint32_t*>(
            record.scores + swizzled(16 * block + 8 * half + lane / 4, 2 * pair + n) +
            4 * (lane % 4)) = pack<X>(sums[n][2 * half], sums[n][2 * half + 1]);
      }
    }
  }
}

__device__ void write_factors(const PrepareShared& shared, ChunkRecord& record, int slot) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kChunk) return;
  const float decay = power_of_two(shared.sum_high[slot][i] + shared.sum_low[slot][i]);
  record.key_factor[i] = decay * shared.key_norm[i];
  record.query_factor[i] = decay * shared.query_norm[i];
  record.update_factor[i] = decay_between(shared, slot, kChunk - 1, i) * shared.key_norm[i];
  if (i == kChunk - 1) record.state_factor = decay;
}

template <class X>
__global__ void __launch_bounds__(kThreads, 3)
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
  load_tile<X>(shared.k, p.k, first, count, k_head);
  load_tile<X>(shared.q, p.q, first, count, k_head);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  row_norms<X>(shared.k, p.qk_l2norm, 1.0f, shared.key_norm);
  row_norms<X>(shared.q, p.qk_l2norm, p.scale, shared.query_norm);
  // The last rows have the most columns: each block gives them to another warp, as warps have
  // quarters of the multiprocessor of their own.
  const int block = (static_cast<int>(threadIdx.x) / 32 + chunk + k_head) % 4;
  key_products<X>(shared, block);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int h = 0; h < p.group; ++h) {
    const int head = k_head * p.group + h;
    const int slot = h % kHeads;
    if (slot == 0) {
      __syncthreads();
      if (h + warp < p.group) sum_decays(p, first, count, head + warp, shared, warp);
    }
    __syncthreads();
    ChunkRecord& record = p.records[std::int64_t{chunk} * p.v_heads + head];
    std::uint32_t scores[4][4];
    write_products<X>(shared, block, slot, scores);
    write_factors(shared, record, slot);
    __syncthreads();
    invert(shared);
    write_solve<X>(shared, record, slot);
    __syncthreads();
    write_scores<X>(shared, record, block, scores);
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
