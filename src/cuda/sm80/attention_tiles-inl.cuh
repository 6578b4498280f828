// The kernels over tiles of query rows: one where four warps share out the keys of 16 rows, one
// where each has 16 of 64 rows.
#pragma once

#include "src/cuda/attention_fetch.cuh"
#include "src/cuda/attention_join.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/attention.cuh"
#include "src/cuda/sm80/attention_tile.cuh"

namespace hybridattn::cuda {

/// How a block is laid out. Warps that share rows' keys are a team: of one warp where rows are few,
/// of all four otherwise. A team's keys and values pass through a ring of slots, a tile's keys in
/// one and its values in the next.
template <class KV, int D, bool Few>
struct TileLayout {
  static constexpr int kWarps = 4;
  static constexpr int kTeam = Few ? 1 : kWarps;  // warps
  static constexpr int kTeams = kWarps / kTeam;
  static constexpr int kRows = 16 * kTeam;
  static constexpr int kRowBytes = D * static_cast<int>(sizeof(KV));
  static constexpr int kKeys = Few ? (kRowBytes >= 512 ? 16 : 32) : (D >= 256 ? 32 : 64);
  static constexpr int kLoads = kKeys / kTeam;  // keys that a warp fetches
  static constexpr bool kOnce = Few;            // no other tile reads them
  static constexpr int kSlotBytes = kKeys * kRowBytes;
  static constexpr int kSlots = kSlotBytes * kTeams >= 32 * 1024 || !Few ? 3 : 5;
  static constexpr int kAhead = kSlots - 1;  // slots being filled while one is read
  static constexpr int kQueryBytes = kRows * D * 2;
  static constexpr int kPitch = D + 4;  // floats of a row of sums
  static constexpr int kRunningBytes = kQueryBytes + kTeams * kSlots * kSlotBytes;
  static constexpr int kSumBytes = kWarps * 16 * kPitch * 4;  // in the end, in place of all that
  static constexpr int kEdges = kRunningBytes > kSumBytes ? kRunningBytes : kSumBytes;
  static constexpr int kUnits = kEdges + kWarps * 16 * 8;
  static constexpr int kBytes = kUnits + kRows * 4;

  static __device__ std::uint32_t place(int row, int piece) {
    return piece_at<kRowBytes>(row, piece);
  }
};

/// The largest magnitude of 16 numbers of X.
template <class X>
__device__ float largest_of(const std::uint32_t (&x)[8]) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 pair = unpack<X>(x[i]);
    largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
  }
  return largest;
}

/// A row of D bf16 numbers in f16: times a power of two that brings the largest near 2^8. What is
/// lost is less than 2^-32 of that. Returns what one stands for.
template <int Lanes>
__device__ float shift_to_f16(std::uint32_t (&x)[8]) {
  float largest = largest_of<__nv_bfloat16>(x);
#pragma unroll
  for (int offset = Lanes / 2; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
  }
  // Not so far that the factor overflows.
  const int exponent = largest > 0.0f && largest < INFINITY ? max(ilogbf(largest) - 8, -120) : 0;
  const float factor = exp2f(static_cast<float>(-exponent));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 pair = unpack<__nv_bfloat16>(x[i]);
    x[i] = pack<__half>(pair.x * factor, pair.y * factor);
  }
  return exp2f(static_cast<float>(exponent));
}

/// Queries of the tile into shared memory as AttentionWarp wants them, and their units; zeros for
/// rows that are not there.
template <class X, class KV, int D, int Rows>
__device__ void load_queries(const AttentionCall& call, const ops::AttentionWork& work,
                             int query_rows, int kv_head, std::uint32_t to, float* units) {
  constexpr int kBlocks = D / 16;  // of 16 dims, a thread each
  for (int i = threadIdx.x; i < Rows * kBlocks; i += blockDim.x) {
    const int row = i / kBlocks, block = i % kBlocks, query_row = work.first + row;
    std::uint32_t x[8] = {};
    if (query_row < query_rows) {
      const int token = call.group.quotient(query_row);
      const int head = kv_head * call.group.divisor() + query_row - token * call.group.divisor();
      const auto* from = reinterpret_cast<const uint4*>(
          call.q.as<const X>() + call.q.at(work.q_start + token, head, 16 * block));
      *reinterpret_cast<uint4*>(x) = from[0];
      *reinterpret_cast<uint4*>(x + 4) = from[1];
    }
    const auto store = [&](int piece, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                           std::uint32_t d) {
      store_piece(to + piece_at<2 * D>(row, piece), make_uint4(a, b, c, d));
    };
    if constexpr (sizeof(KV) == 1) {
      const float unit = std::is_same_v<X, __half> ? 1.0f : shift_to_f16<kBlocks>(x);
      if (block == 0) units[row] = unit;
      store(2 * block, x[0], x[2], x[4], x[6]);
      store(2 * block + 1, x[1], x[3], x[5], x[7]);
    } else {
      store(2 * block, x[0], x[1], x[2], x[3]);
      store(2 * block + 1, x[4], x[5], x[6], x[7]);
    }
  }
}

/// One tile of one key head over its keys.
template <class X, class KV, int D, bool Few>
__device__ void run_tile(const AttentionTileParams& p, const ops::AttentionWork& work, int kv_head,
                         std::byte* shared) {
  using L = TileLayout<KV, D, Few>;
  using Multiplied = std::conditional_t<sizeof(KV) == 1, __half, X>;
  const AttentionCall& call = p.call;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int team = warp / L::kTeam, row_of_warp = Few ? 0 : 16 * warp;
  const int query_rows = work.q_length * call.group.divisor();
  const std::uint32_t base = shared_address(shared);
  const std::uint32_t slots = base + L::kQueryBytes + team * L::kSlots * L::kSlotBytes;
  auto* units = reinterpret_cast<float*>(shared + L::kUnits);

  const int tiles = (work.end - work.begin + L::kKeys - 1) / L::kKeys;
  const auto first_of = [&](int i) { return work.begin + (team + i * L::kTeams) * L::kKeys; };
  const int mine = (tiles - team + L::kTeams - 1) / L::kTeams;
  KeyFetcher<KV, L> keys(call, work, kv_head, lowest_key(call, work), first_of(0));
  keys.turn(first_of(1));
  begin_tile<Few>(p);  // the work and the pages were there before the kernel that came before
  // Half steps: keys of tile 0, its values, keys of tile 1, ... Each starts the copies of the one
  // that is kAhead further.
  const auto fetch = [&](int half, int slot) {
    const int tile = half / 2;
    if (half % 2 == 0) {
      if (tile < mine) keys.fetch_keys(slots + slot * L::kSlotBytes);
    } else {
      if (tile < mine) keys.fetch_values(slots + slot * L::kSlotBytes);
      keys.turn(first_of(tile + 2));
    }
    commit_copies();
  };
#pragma unroll
  for (int half = 0; half < L::kAhead; ++half) fetch(half, half);
  load_queries<X, KV, D, L::kRows>(call, work, query_rows, kv_head, base, units);
  const Sight sight[] = {find_sight(call, work, row_of_warp + lane / 4),
                         find_sight(call, work, row_of_warp + lane / 4 + 8)};
  // Found again for each tile of keys that is not seen whole where sums take all registers.
  constexpr bool kSightsStay = Few && !(sizeof(KV) == 1 && D == 256);
  const auto sight_again = [&](int half) {
    return kSightsStay ? sight[half] : find_sight(call, work, row_of_warp + lane / 4 + 8 * half);
  };
  __syncthreads();
  const bool idle = work.first + row_of_warp >= query_rows;
  float unit[2] = {1.0f, 1.0f};
  if constexpr (sizeof(KV) == 1) {
    const float scale = call.k_scale_of(kv_head);
    unit[0] = units[row_of_warp + lane / 4] * scale;
    unit[1] = units[row_of_warp + lane / 4 + 8] * scale;
  }
  AttentionWarp<Multiplied, KV, D, L::kKeys> rows(base + row_of_warp * D * 2, sight, unit);
  int slot = 0;
  const auto next_slot = [&](int half) {
    wait_copies<L::kAhead - 1>();
    if constexpr (Few) {
      __syncwarp();
    } else {
      __syncthreads();
    }
    fetch(half + L::kAhead, slot == 0 ? L::kAhead : slot - 1);
    const std::uint32_t now = slots + slot * L::kSlotBytes;
    slot = slot == L::kAhead ? 0 : slot + 1;
    return now;
  };
  for (int i = 0; i < mine; ++i) {
    float s[L::kKeys / 2] = {};
    const std::uint32_t key_slot = next_slot(2 * i);
    if (!idle) rows.weigh_keys(call, sight_again, key_slot, first_of(i), s);
    const std::uint32_t value_slot = next_slot(2 * i + 1);
    if (!idle) rows.add_values(value_slot, s);
  }
  rows.weights.finish();

  auto* edges = reinterpret_cast<float2*>(shared + L::kEdges);
  if (lane % 4 == 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      edges[16 * warp + lane / 4 + 8 * half] =
          make_float2(rows.weights.top[half], rows.weights.sum[half]);
    }
  }
  __syncthreads();  // no stage is read any more
  const auto common_top = [&](int row) {
    float top = edges[row].x;
    for (int w = 1; w < L::kTeams; ++w) top = fmaxf(top, edges[16 * w + row].x);
    return top;
  };
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float top = Few ? common_top(lane / 4 + 8 * half) : 0.0f;
    factor[half] =
        Few ? power_of_two(rows.weights.top[half] - (top == -INFINITY ? 0.0f : top)) : 1.0f;
  }
  auto* sums = reinterpret_cast<float*>(shared);
  rows.spread(sums + 16 * warp * L::kPitch, L::kPitch, factor);
  __syncthreads();
  for (int i = threadIdx.x; i < L::kRows * D / 4; i += blockDim.x) {
    const int row = i / (D / 4), d = i % (D / 4) * 4;
    float4 total = *reinterpret_cast<const float4*>(sums + row * L::kPitch + d);
    float top = edges[row].x, sum = edges[row].y;
    if constexpr (Few) {
      top = common_top(row);
      const float zero = top == -INFINITY ? 0.0f : top;
      sum = 0.0f;
#pragma unroll
      for (int w = 0; w < L::kTeams; ++w) {
        const float2 edge = edges[16 * w + row];
        sum += edge.y * power_of_two(edge.x - zero);
        if (w == 0) continue;
        const float4 more = *reinterpret_cast<const float4*>(sums + (16 * w + row) * L::kPitch + d);
        total.x += more.x;
        total.y += more.y;
        total.z += more.z;
        total.w += more.w;
      }
    }
    const RowWriter<X, D> writer(p, work, kv_head, row, top, sum);
    // What tiles of many write is gated behind them.
    if (Few && call.gate.data != nullptr) {
      writer.write_gated(d, total);
    } else {
      writer.write(d, total);
    }
  }
  const int tile = Few ? ops::kAttentionFewRows : call.tables.many_rows;
  PartJoin<X, D, L::kRows>(p, work, kv_head, tile, TileBarrier(0)).run();
}

/// The blocks share out the pieces of work, longest first, in rounds of which every other goes
/// backwards: each gets about as many keys.
template <class X, class KV, int D, bool Few>
__global__ void __launch_bounds__(128, 2)
    attention_tiles_kernel(const __grid_constant__ AttentionTileParams p) {
  extern __shared__ __align__(128) std::byte shared[];
  const ops::AttentionTables& tables = p.call.tables;
  const int heads = p.call.kv_heads;
  // Tiles of many rows may have been cut for a kernel that takes more of them at once.
  const int parts = Few ? 1 : tables.many_rows / TileLayout<KV, D, Few>::kRows;
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const ops::AttentionWork* works = Few ? tables.few : tables.many;
  ops::AttentionWork work = works[block / parts / heads];  // read along with the count
  const int count = tables.counts[Few ? 0 : 1] * heads * parts;
  for (int first = 0, back = 0; first < count; first += blocks, back ^= 1) {
    const int at = first + (back != 0 ? blocks - 1 - block : block);
    if (at >= count) continue;
    if (first > 0) work = works[at / parts / heads];
    const int rows_before = at % parts * TileLayout<KV, D, Few>::kRows;
    work.first += rows_before;
    if (work.first >= work.q_length * p.call.group.divisor()) continue;
    if (work.part >= 0) work.part += rows_before;
    if (first > 0) __syncthreads();  // what the last tile left is read
    run_tile<X, KV, D, Few>(p, work, at / parts % heads, shared);
  }
  end_tiles();
}

template <class X, class KV, int D, bool Few>
Status run_attention_tiles(const AttentionTileParams& p, const core::DeviceLaunch& launch) {
  using L = TileLayout<KV, D, Few>;
  const int works = Few ? p.call.tables.num_few : p.call.tables.num_many;
  if (works == 0) return {};
  const auto kernel = attention_tiles_kernel<X, KV, D, Few>;
  HYBRIDATTN_TRY(allow_shared_memory("attention", kernel, L::kBytes));
  const int parts = Few ? 1 : p.call.tables.many_rows / L::kRows;
  const auto blocks = std::min<std::int64_t>(std::int64_t{works} * p.call.kv_heads * parts,
                                             std::int64_t{launch.info->num_sms} * 2);
  return launch_early("attention", launch, kernel, dim3(static_cast<unsigned>(blocks)), 128,
                      L::kBytes, p);
}

#define HYBRIDATTN_TILES(X, KV, D, Few)                                          \
  template Status run_attention_tiles<X, KV, D, Few>(const AttentionTileParams&, \
                                                     const core::DeviceLaunch&)
/// The kernels for queries of X and head dim D: over caches of X and of f8_e4m3, few rows and many.
#define HYBRIDATTN_INSTANCES(X, D)            \
  HYBRIDATTN_TILES(X, X, D, true);            \
  HYBRIDATTN_TILES(X, X, D, false);           \
  HYBRIDATTN_TILES(X, std::uint8_t, D, true); \
  HYBRIDATTN_TILES(X, std::uint8_t, D, false)

}  // namespace hybridattn::cuda
