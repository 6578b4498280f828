// Softmax attention in plain CUDA C++, for every type, stride and head dim: a block for each token
// and head, whose warps share out the keys.
#include "src/cuda/smxx/attention.cuh"

#include <cuda_fp8.h>

#include "src/cuda/attention_rows.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxDim = 512;

struct RowsParams {
  AttentionCall call;
  int dim, v_dim;
};

__device__ float load_cached(const View& view, std::int64_t at) {
  if (view.dtype != DType::kF8E4M3) return load(view, at);
  const auto bits = static_cast<__nv_fp8_storage_t>(view.as<const std::uint8_t>()[at]);
  return to_float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
}

__global__ void __launch_bounds__(kWarps * 32)
    attention_rows_kernel(const __grid_constant__ RowsParams p) {
  __shared__ float tops[kWarps], sums[kWarps];
  __shared__ float q[kMaxDim], outs[kWarps][kMaxDim];
  const AttentionCall& call = p.call;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t count = std::int64_t{call.tables.first_query[call.tables.rows]} * call.heads;
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const auto index = static_cast<int>(i / call.heads);
    const auto head = static_cast<int>(i % call.heads);
    const int row = row_of_query(call.tables, index);
    const int query = index - call.tables.first_query[row];
    const RowSpan span{call.tables.q_start[row], call.tables.q_length[row],
                       call.tables.kv_length[row]};
    const std::int64_t token = span.q_start + query, kv_start = call.tables.kv_start[row];
    const std::int64_t kv_head = head / call.group.divisor();
    const Sight sight = sight_of(call, span, query);
    for (int d = threadIdx.x; d < p.dim; d += blockDim.x) {
      q[d] = load(call.q, call.q.at(token, head, d));
    }
    for (int d = lane; d < p.v_dim; d += 32) outs[warp][d] = 0.0f;
    __syncthreads();
    const float scale = call.scale * call.k_scale_of(static_cast<int>(kv_head));
    float top = -INFINITY, sum = 0.0f;
    for (int key = sight.begin + warp; key < sight.end; key += kWarps) {
      if (!sight.sees(key)) continue;
      const std::int64_t page = page_of(call, kv_start, key), place = place_in_page(call, key);
      float product = 0.0f;
#pragma unroll 1
      for (int d = lane; d < p.dim; d += 32) {
        product = fmaf(q[d], load_cached(call.k, call.k.at(page, place, kv_head, d)), product);
      }
      const float scaled = sum_lanes(product) * scale;
      const float logit = call.cap == 0.0f ? scaled * kLog2E : capped_log2(call.cap, scaled);
      if (logit == -INFINITY) continue;
      const float higher = fmaxf(top, logit);
      const float fade = exp2f(top - higher), weight = exp2f(logit - higher);
      top = higher;
      sum = fmaf(sum, fade, weight);
#pragma unroll 1
      for (int d = lane; d < p.v_dim; d += 32) {
        const float value = load_cached(call.v, call.v.at(page, place, kv_head, d));
        outs[warp][d] = fmaf(outs[warp][d], fade, weight * value);
      }
    }
    if (lane == 0) tops[warp] = top, sums[warp] = sum;
    __syncthreads();
    float highest = -INFINITY, all = 0.0f;
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, tops[w]);
    const float zero = highest == -INFINITY ? 0.0f : highest;
    for (int w = 0; w < kWarps; ++w) all = fmaf(sums[w], exp2f(tops[w] - zero), all);
    const Finish finish = finish_query(call, head, highest, all);
    for (int d = threadIdx.x; d < p.v_dim; d += blockDim.x) {
      float total = 0.0f;
      for (int w = 0; w < kWarps; ++w) total = fmaf(outs[w][d], exp2f(tops[w] - zero), total);
      float value = finish.factor == 0.0f ? 0.0f : total * finish.factor;
      if (call.gate.data != nullptr && finish.lse != -INFINITY) {
        value *= sigmoid(load(call.gate, call.gate.at(token, head, d)));
      }
      store(call.out, call.out.at(token, head, d), value);
    }
    if (threadIdx.x == 0 && call.lse.data != nullptr) {
      store(call.lse, call.lse.at(token, head), finish.lse);
    }
    __syncthreads();  // before the next query's are written
  }
}

}  // namespace

Status run_attention_rows(const ops::AttentionParams& p, const core::DeviceLaunch& launch) {
  const RowsParams params{attention_call(p), static_cast<int>(p.q.dim(2)),
                          static_cast<int>(p.v.dim(3))};
  const std::int64_t count = std::int64_t{p.tables->queries} * params.call.heads;
  if (count == 0) return {};
  attention_rows_kernel<<<grid_for(count, 1, *launch.info), kWarps * 32, 0, stream_of(launch)>>>(
      params);
  return check_launch("attention");
}

}  // namespace hybridattn::cuda
