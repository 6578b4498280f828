// Adds up the parts of tiles whose keys went to several blocks.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/attention.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kShares = 4;  // of the parts, each by as many threads as a row has fours
constexpr int kAhead = 8;   // parts of a share whose sums are on their way at once

struct Share {
  float top, sum;
  float4 total;
};

__device__ void add(float4& total, const float4& x, float factor) {
  total.x += x.x * factor;
  total.y += x.y * factor;
  total.z += x.z * factor;
  total.w += x.w * factor;
}

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

/// The parts of a query row, `count` of them at place(i), whose number from the row's first key is
/// `share` modulo kShares: what a query sees adds up in one order, wherever its tile begins.
/// `index`: of the first.
template <class Place>
__device__ Share add_parts(const AttentionTileParams& p, const Place& place, int count, int index,
                           int share, int d, int dim) {
  Share out{-INFINITY, 0.0f, {}};
  const int begin = (share - index % kShares + kShares) % kShares;
#pragma unroll 8
  for (int i = begin; i < count; i += kShares) {
    out.top = fmaxf(out.top, p.part_top[place(i)].x);
  }
  const float zero = out.top == -INFINITY ? 0.0f : out.top;
  for (int first = begin; first < count; first += kAhead * kShares) {
    float4 sums[kAhead];
    float2 edge[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const std::int64_t from = place(min(first + i * kShares, count - 1));
      edge[i] = p.part_top[from];
      sums[i] = *reinterpret_cast<const float4*>(p.part_out + from * dim + d);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kShares >= count) break;
      const float factor = power_of_two(edge[i].x - zero);
      out.sum += edge[i].y * factor;
      add(out.total, sums[i], factor);
    }
  }
  return out;
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

/// Query row `row` of a tile: its parts, added up by a block.
template <class X, bool Shared>
__device__ void join_row(const AttentionTileParams& p, const ops::AttentionJoin& join, int kv_head,
                         int row) {
  __shared__ Share shares[kShares][64];
  const AttentionCall& call = p.call;
  const int fours = static_cast<int>(blockDim.x) / kShares;
  const int share = static_cast<int>(threadIdx.x) / fours;
  const int four = static_cast<int>(threadIdx.x) % fours, dim = 4 * fours;
  const int group = call.group.divisor();
  const int query_row = join.first + row;
  const std::int64_t first = kv_head * call.tables.part_rows;
  if constexpr (Shared) {
    const PartPlaces places(join, row);
    const auto place = [&](int i) { return first + places.of(i); };
    shares[share][four] = add_parts(p, place, places.count, join.index, share, 4 * four, dim);
  } else {
    const std::int64_t at = first + std::int64_t{join.part} + row;
    const auto place = [&](int i) { return at + std::int64_t{i} * join.tile; };
    shares[share][four] = add_parts(p, place, join.parts, join.index, share, 4 * four, dim);
  }
  __syncthreads();
  if (share == 0) {
    float top = -INFINITY, sum = 0.0f;
    float4 total{};
    for (int s = 0; s < kShares; ++s) top = fmaxf(top, shares[s][four].top);
    const float zero = top == -INFINITY ? 0.0f : top;
    for (int s = 0; s < kShares; ++s) {
      const float factor = power_of_two(shares[s][four].top - zero);
      sum += shares[s][four].sum * factor;
      add(total, shares[s][four].total, factor);
    }
    const int token = call.group.quotient(query_row);
    const int head = kv_head * group + query_row - token * group;
    const Finish finish = finish_query(call, head, top, sum);
    if (call.gate.data != nullptr) {
      write_gated<X>(call, join.q_start + token, head, 4 * four, total, finish);
    } else {
      write_query<X>(call, join.q_start + token, head, 4 * four, total, finish);
    }
  }
  __syncthreads();  // before the next row's are written
}

/// A block takes one query row after the other. `tile`: query rows of the largest.
template <class X>
__global__ void attention_join_kernel(const __grid_constant__ AttentionTileParams p, int tile) {
  const AttentionCall& call = p.call;
  const int group = call.group.divisor();
  auto i = static_cast<int>(blockIdx.x);
  ops::AttentionJoin join = call.tables.joins[i / tile / call.kv_heads];  // along with the count
  const int count = call.tables.counts[2] * call.kv_heads * tile;
  wait_for_writers();  // of the parts
  for (; i < count; i += static_cast<int>(gridDim.x)) {
    const int row = i % tile, kv_head = i / tile % call.kv_heads;
    if (i >= static_cast<int>(gridDim.x)) join = call.tables.joins[i / tile / call.kv_heads];
    if (row >= join.tile || join.first + row >= join.q_length * group) continue;
    join_row<X, false>(p, join, kv_head, row);
  }
}

/// The same where rows may share parts, and most have joins of their own.
template <class X>
__global__ void attention_shared_join_kernel(const __grid_constant__ AttentionTileParams p, int) {
  const AttentionCall& call = p.call;
  const int group = call.group.divisor();
  const JoinRows rows(call);
  wait_for_writers();  // of the parts
  for (auto i = static_cast<int>(blockIdx.x); i < rows.all; i += static_cast<int>(gridDim.x)) {
    const auto [index, kv_head, row] = rows.place(i);
    const ops::AttentionJoin& join = call.tables.joins[index];
    if (join.first + row < join.q_length * group) join_row<X, true>(p, join, kv_head, row);
  }
}

}  // namespace

Status join_attention_parts(const AttentionTileParams& p, int dim,
                            const core::DeviceLaunch& launch) {
  if (p.call.tables.num_joins == 0) return {};
  const bool bf16 = p.call.q.dtype == DType::kBF16, shared = p.call.tables.shares;
  const auto kernel =
      shared ? (bf16 ? attention_shared_join_kernel<__nv_bfloat16>
                     : attention_shared_join_kernel<__half>)
             : (bf16 ? attention_join_kernel<__nv_bfloat16> : attention_join_kernel<__half>);
  const int tile = p.call.tables.num_many > 0 ? p.call.tables.many_rows : ops::kAttentionFewRows;
  const std::int64_t rows = std::int64_t{p.call.tables.num_joins} * p.call.kv_heads * tile;
  const auto blocks =
      static_cast<unsigned>(std::min<std::int64_t>(rows, std::int64_t{launch.info->num_sms} * 8));
  return launch_early("attention", launch, kernel, dim3(blocks), kShares * dim / 4, 0, p, tile);
}

}  // namespace hybridattn::cuda
