// Adds up the parts of tiles whose keys went to several blocks.
#include "src/cuda/attention_join.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/attention.cuh"

namespace hybridattn::cuda {
namespace {

// 64 dims of a query row are added up by a team: sixteen shares of its parts, each by 16 threads
// with four dims. All of them are there where rows are few (kWide: a block, a warp for eight shares
// of 16 dims); where rows are many a warp is a team, whose threads have eight shares each.
constexpr int kDims = 64, kShares = 16, kFours = kDims / 4;
constexpr int kAhead = 8;  // parts of a thread whose sums are on their way at once
enum Team { kWide, kNarrow };

template <Team kind>
struct TeamLayout {
  static constexpr int kThreads = kind == kWide ? kShares * kFours : 128;  // of a block
  static constexpr int kTeams = kind == kWide ? 1 : kThreads / 32;         // of a block
  static constexpr int kShareThreads = kind == kWide ? 4 : kFours;         // of a share, in a warp
  static constexpr int kOwn = kind == kWide ? 1 : kShares / 2;             // shares of a thread
};

/// Where the parts of a query row are among those of its key head, those that it shares with other
/// rows first.
struct PartPlaces {
  /// `row`: of the tile.
  __device__ PartPlaces(const ops::AttentionJoin& join, int row)
      : own(join.part + row - join.shared_parts * join.tile), tile(join.tile),
        shared_tile(join.shared_tile), shared_parts(join.shared_parts),
        count(join.shared_parts + join.parts) {
    const int among = join.shared_first + row, before = among / shared_tile;
    shared = join.shared_part + among + before * (shared_parts - 1) * shared_tile;
  }
  __device__ int of(int i) const {
    return i < shared_parts ? shared + i * shared_tile : own + i * tile;
  }

  int own, shared, tile, shared_tile, shared_parts, count;
};

/// Adds to `joined` the parts of a query row, `count` of them at place(i), whose number from the
/// row's first key is share, share + 1, ... modulo kShares: what a query sees adds up in one order,
/// wherever its tile begins. `index`: number of the first.
template <int Shares, class Place>
__device__ void add_parts(const AttentionTileParams& p, const Place& place, int count, int index,
                          int share, int d, int dim, JoinedRow (&joined)[Shares]) {
  constexpr int kRounds = kAhead / Shares;
  for (int first = share - index % kShares; first < count; first += kRounds * kShares) {
    float4 sums[kAhead];
    float2 edge[kAhead];
    const auto part = [&](int i) { return first + i / Shares * kShares + i % Shares; };
    const auto there = [&](int i) { return part(i) >= 0 && part(i) < count; };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (!there(i)) continue;
      const std::int64_t from = place(part(i));
      edge[i] = p.part_top[from];
      sums[i] = *reinterpret_cast<const float4*>(p.part_out + from * dim + d);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (there(i)) joined[i % Shares].add(edge[i], sums[i]);
    }
  }
}

__device__ void add(JoinedRow& joined, const JoinedRow& more) {
  joined.add(make_float2(more.top, more.sum), more.total);
}

/// Adds what the lane `offset` away has.
__device__ void add_lane(JoinedRow& joined, int offset) {
  const auto other = [&](float x) { return __shfl_xor_sync(kAllLanes, x, offset); };
  const float2 edge = make_float2(other(joined.top), other(joined.sum));
  joined.add(edge, make_float4(other(joined.total.x), other(joined.total.y), other(joined.total.z),
                               other(joined.total.w)));
}

/// Adds up eight shares, in one order whether a thread or several have them.
template <int Shares, int Threads>
__device__ void add_shares(JoinedRow (&joined)[Shares]) {
  if constexpr (Shares == 1) {
#pragma unroll
    for (int share = kShares / 4; share > 0; share /= 2) add_lane(joined[0], share * Threads);
  } else {
#pragma unroll
    for (int share = Shares / 2; share > 0; share /= 2) {
#pragma unroll
      for (int i = 0; i < share; ++i) add(joined[i], joined[i + share]);
    }
  }
}

/// Query rows of one key head of the joins: those of tiles of many come first.
struct JoinRows {
  int kv_heads, many_tile, many, all;

  __device__ explicit JoinRows(const AttentionCall& call)
      : kv_heads(call.kv_heads), many_tile(call.tables.many_rows) {
    const int joins = call.tables.counts[2], of_many = call.tables.counts[3];
    many = of_many * kv_heads * many_tile;
    all = many + (joins - of_many) * kv_heads * ops::kAttentionFewRows;
  }
  struct Place {
    int join, kv_head, row;
  };
  __device__ Place place(int i) const {
    const int tile = i < many ? many_tile : ops::kAttentionFewRows;
    const int whole = (i < many ? i : i - many) / tile, join = whole / kv_heads;
    const int before = i < many ? 0 : many / (many_tile * kv_heads);
    return {before + join, whole - join * kv_heads, (i < many ? i : i - many) - whole * tile};
  }
};

/// A slice of a query row of a tile.
struct Slice {
  int kv_head, row, first;  // dim
};

/// Adds up a slice, by a team.
template <class X, Team kind, bool Shared>
__device__ void join_slice(const AttentionTileParams& p, const ops::AttentionJoin& join,
                           const Slice& at, int dim) {
  using L = TeamLayout<kind>;
  const AttentionCall& call = p.call;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int half = kind == kWide ? warp / 4 : lane / kFours;
  const int four = kind == kWide ? warp % 4 * 4 + lane % 4 : lane % kFours;
  const int share = half * kShares / 2 + (kind == kWide ? lane / L::kShareThreads : 0);
  const int d = at.first + 4 * four;
  const std::int64_t first = at.kv_head * call.tables.part_rows;
  JoinedRow joined[L::kOwn];
  if constexpr (Shared) {
    const PartPlaces places(join, at.row);
    const auto place = [&](int i) { return first + places.of(i); };
    add_parts(p, place, places.count, join.index, share, d, dim, joined);
  } else {
    const std::int64_t from = first + std::int64_t{join.part} + at.row;
    const auto place = [&](int i) { return from + std::int64_t{i} * join.tile; };
    add_parts(p, place, join.parts, join.index, share, d, dim, joined);
  }
  add_shares<L::kOwn, L::kShareThreads>(joined);
  bool writes = half == 0;
  if constexpr (kind == kWide) {
    __shared__ JoinedRow halves[kFours];
    writes = writes && lane < L::kShareThreads;
    if (half == 1 && lane < L::kShareThreads) halves[four] = joined[0];
    __syncthreads();
    if (writes) add(joined[0], halves[four]);
    __syncthreads();  // before the next slice's are written
  } else {
    add_lane(joined[0], kFours);
  }
  if (!writes) return;
  const int query_row = join.first + at.row, group = call.group.divisor();
  const int token = call.group.quotient(query_row);
  const int head = at.kv_head * group + query_row - token * group;
  const Finish finish = finish_query(call, head, joined[0].top, joined[0].sum);
  if (call.gate.data != nullptr) {
    write_gated<X>(call, join.q_start + token, head, d, joined[0].total, finish);
  } else {
    write_query<X>(call, join.q_start + token, head, d, joined[0].total, finish);
  }
}

/// A team takes one slice after the other. `tile`: query rows of the largest.
template <class X, Team kind>
__global__ void __launch_bounds__(TeamLayout<kind>::kThreads)
    attention_join_kernel(const __grid_constant__ AttentionTileParams p, int tile, int dim) {
  constexpr int kTeams = TeamLayout<kind>::kTeams;
  const AttentionCall& call = p.call;
  const int group = call.group.divisor(), slices = dim / kDims;
  const int team = kTeams == 1 ? 0 : static_cast<int>(threadIdx.x) / 32;
  const int begin = static_cast<int>(blockIdx.x) * kTeams + team;
  const int of_head = slices * tile, of_join = of_head * call.kv_heads;
  const int last = call.tables.num_joins - 1;
  ops::AttentionJoin join = call.tables.joins[min(begin / of_join, last)];  // along with the count
  const int count = call.tables.counts[2] * of_join;
  let_next_begin();
  wait_for_writers();  // of the parts
  for (int i = begin; i < count; i += static_cast<int>(gridDim.x) * kTeams) {
    const Slice at{i / of_head % call.kv_heads, i / slices % tile, i % slices * kDims};
    if (i != begin) join = call.tables.joins[i / of_join];
    if (at.row >= join.tile || join.first + at.row >= join.q_length * group) continue;
    join_slice<X, kind, false>(p, join, at, dim);
  }
}

/// The same where rows may share parts, and most have joins of their own.
template <class X, Team kind>
__global__ void __launch_bounds__(TeamLayout<kind>::kThreads)
    attention_shared_join_kernel(const __grid_constant__ AttentionTileParams p, int, int dim) {
  constexpr int kTeams = TeamLayout<kind>::kTeams;
  const AttentionCall& call = p.call;
  const int group = call.group.divisor(), slices = dim / kDims;
  const int team = kTeams == 1 ? 0 : static_cast<int>(threadIdx.x) / 32;
  const JoinRows rows(call);
  const int count = rows.all * slices;
  let_next_begin();
  wait_for_writers();  // of the parts
  for (int i = static_cast<int>(blockIdx.x) * kTeams + team; i < count;
       i += static_cast<int>(gridDim.x) * kTeams) {
    const auto [index, kv_head, row] = rows.place(i / slices);
    const ops::AttentionJoin& join = call.tables.joins[index];
    if (join.first + row >= join.q_length * group) continue;
    join_slice<X, kind, true>(p, join, {kv_head, row, i % slices * kDims}, dim);
  }
}

template <Team kind>
Status launch_join(const AttentionTileParams& p, int tile, std::int64_t slices, int dim,
                   const core::DeviceLaunch& launch) {
  using L = TeamLayout<kind>;
  const bool bf16 = p.call.q.dtype == DType::kBF16, shared = p.call.tables.shares;
  const auto kernel = shared ? (bf16 ? attention_shared_join_kernel<__nv_bfloat16, kind>
                                     : attention_shared_join_kernel<__half, kind>)
                             : (bf16 ? attention_join_kernel<__nv_bfloat16, kind>
                                     : attention_join_kernel<__half, kind>);
  const std::int64_t blocks = (slices + L::kTeams - 1) / L::kTeams;
  const auto most = std::int64_t{launch.info->num_sms} * 8;
  return launch_early("attention", launch, kernel,
                      dim3(static_cast<unsigned>(std::min(blocks, most))), L::kThreads, 0, p, tile,
                      dim);
}

}  // namespace

Status join_attention_parts(const AttentionTileParams& p, int dim,
                            const core::DeviceLaunch& launch) {
  const ops::AttentionTables& tables = p.call.tables;
  if (tables.num_joins == 0) return {};
  const int tile = tables.num_many > 0 ? tables.many_rows : ops::kAttentionFewRows;
  const std::int64_t slices =
      std::int64_t{tables.num_joins} * p.call.kv_heads * tile * (dim / kDims);
  return slices <= std::int64_t{launch.info->num_sms} * 2
             ? launch_join<kWide>(p, tile, slices, dim, launch)
             : launch_join<kNarrow>(p, tile, slices, dim, launch);
}

}  // namespace hybridattn::cuda
