// The merge of two attention results on CUDA: a warp for each token and head.
#include "src/cuda/element.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;

struct MergeParams {
  View out_a, lse_a, out_b, lse_b, out, lse;
  std::int64_t tokens;
  int heads, dim;
};

/// A side without weight may hold anything.
__device__ float weighed(const View& view, std::int64_t at, float weight) {
  return weight == 0.0f ? 0.0f : weight * load(view, at);
}

__global__ void __launch_bounds__(kWarps * 32)
    merge_states_kernel(const __grid_constant__ MergeParams p) {
  const int lane = threadIdx.x % 32;
  for (std::int64_t i = flat_index() / 32; i < p.tokens * p.heads; i += flat_step() / 32) {
    const std::int64_t token = i / p.heads, head = i % p.heads;
    const float a = load(p.lse_a, p.lse_a.at(token, head));
    const float b = load(p.lse_b, p.lse_b.at(token, head));
    const float top = fmaxf(a, b);
    const float zero = top == -INFINITY ? 0.0f : top;
    const float wa = expf(a - zero), wb = expf(b - zero);
    const float sum = wa + wb, factor = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      const float of_a = weighed(p.out_a, p.out_a.at(token, head, d), wa);
      const float of_b = weighed(p.out_b, p.out_b.at(token, head, d), wb);
      store(p.out, p.out.at(token, head, d), (of_a + of_b) * factor);
    }
    __syncwarp();  // lse may be one of those that all lanes read
    if (lane == 0 && p.lse.data != nullptr) {
      store(p.lse, p.lse.at(token, head), sum > 0.0f ? zero + logf(sum) : -INFINITY);
    }
  }
}

Status run(const ops::MergeStatesParams& p, const core::DeviceLaunch& launch) {
  const MergeParams params{View(p.out_a),
                           View(p.lse_a),
                           View(p.out_b),
                           View(p.lse_b),
                           View(p.out),
                           p.lse.empty() ? View() : View(p.lse),
                           p.out.dim(0),
                           static_cast<int>(p.out.dim(1)),
                           static_cast<int>(p.out.dim(2))};
  const std::int64_t count = params.tokens * params.heads;
  if (count == 0) return {};
  merge_states_kernel<<<grid_for(count, kWarps, *launch.info), kWarps * 32, 0, stream_of(launch)>>>(
      params);
  return check_launch("merge_states");
}

}  // namespace

core::DeviceKernels<ops::MergeStatesParams> merge_states_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
