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

/// The parts of a query row, its first at `at`, whose number from the row's first key is `share`
/// modulo kShares: what a query sees adds up in one order, wherever its tile begins.
__device__ Share add_parts(const AttentionTileParams& p, const ops::AttentionJoin& join,
                           std::int64_t at, int share, int d, int dim) {
  Share out{-INFINITY, 0.0f, {}};
  const int begin = (share - join.index % kShares + kShares) % kShares;
  const auto place = [&](int i) { return at + std::int64_t{i} * join.tile; };
#pragma unroll 8
  for (int i = begin; i < join.parts; i += kShares) {
    out.top = fmaxf(out.top, p.part_top[place(i)].x);
  }
  const float zero = out.top == -INFINITY ? 0.0f : out.top;
  for (int first = begin; first < join.parts; first += kAhead * kShares) {
    float4 sums[kAhead];
    float2 edge[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const std::int64_t from = place(min(first + i * kShares, join.parts - 1));
      edge[i] = p.part_top[from];
      sums[i] = *reinterpret_cast<const float4*>(p.part_out + from * dim + d);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kShares >= join.parts) break;
      const float factor = power_of_two(edge[i].x - zero);
      out.sum += edge[i].y * factor;
      add(out.total, sums[i], factor);
    }
  }
  return out;
}

/// A block takes one query row after the other.
template <class X>
__global__ void attention_join_kernel(const __grid_constant__ AttentionTileParams p, int tile) {
  __shared__ Share shares[kShares][64];
  const AttentionCall& call = p.call;
  const int fours = static_cast<int>(blockDim.x) / kShares;
  const int share = static_cast<int>(threadIdx.x) / fours;
  const int four = static_cast<int>(threadIdx.x) % fours, dim = 4 * fours;
  const int group = call.group.divisor();
  auto i = static_cast<int>(blockIdx.x);
  ops::AttentionJoin join = call.tables.joins[i / tile / call.kv_heads];  // along with the count
  const int count = call.tables.counts[2] * call.kv_heads * tile;
  wait_for_writers();  // of the parts
  for (; i < count; i += static_cast<int>(gridDim.x)) {
    const int row = i % tile, kv_head = i / tile % call.kv_heads;
    if (i >= static_cast<int>(gridDim.x)) join = call.tables.joins[i / tile / call.kv_heads];
    const int query_row = join.first + row;
    if (row >= join.tile || query_row >= join.q_length * group) continue;
    const std::int64_t at = kv_head * call.tables.part_rows + std::int64_t{join.part} + row;
    shares[share][four] = add_parts(p, join, at, share, 4 * four, dim);
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
      write_query<X>(call, join.q_start + token, head, 4 * four, total,
                     finish_query(call, head, top, sum));
    }
    __syncthreads();  // before the next row's are written
  }
}

}  // namespace

Status join_attention_parts(const AttentionTileParams& p, int dim,
                            const core::DeviceLaunch& launch) {
  if (p.call.tables.num_joins == 0) return {};
  const auto kernel = p.call.q.dtype == DType::kBF16 ? attention_join_kernel<__nv_bfloat16>
                                                     : attention_join_kernel<__half>;
  const int tile = p.call.tables.num_many > 0 ? p.call.tables.many_rows : ops::kAttentionFewRows;
  const std::int64_t rows = std::int64_t{p.call.tables.num_joins} * p.call.kv_heads * tile;
  const auto blocks =
      static_cast<unsigned>(std::min<std::int64_t>(rows, std::int64_t{launch.info->num_sms} * 8));
  return launch_early("attention", launch, kernel, dim3(blocks), kShares * dim / 4, 0, p, tile);
}

}  // namespace hybridattn::cuda
