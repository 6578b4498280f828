// L2 normalisation on CUDA: a warp for each token and head.
#include "src/cuda/element.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;

struct L2Params {
  View x, out;
  std::int64_t tokens;
  int heads, dim;
  float scale;
};

__global__ void __launch_bounds__(kWarps * 32) l2norm_kernel(const __grid_constant__ L2Params p) {
  let_next_begin();
  wait_for_writers();
  const int lane = threadIdx.x % 32;
  for (std::int64_t i = flat_index() / 32; i < p.tokens * p.heads; i += flat_step() / 32) {
    const std::int64_t token = i / p.heads;
    const std::int64_t head = i % p.heads;
    float squares = 0.0f;
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      const float x = load(p.x, p.x.at(token, head, d));
      squares = fmaf(x, x, squares);
    }
    const float factor = p.scale * inverse_root(sum_lanes(squares) + kL2NormEpsilon);
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      store(p.out, p.out.at(token, head, d), load(p.x, p.x.at(token, head, d)) * factor);
    }
  }
}

Status run(const ops::L2NormParams& p, const core::DeviceLaunch& launch) {
  const L2Params params{View(p.x),
                        View(p.out),
                        p.x.dim(0),
                        static_cast<int>(p.x.dim(1)),
                        static_cast<int>(p.x.dim(2)),
                        p.scale};
  const std::int64_t count = params.tokens * params.heads;
  if (count == 0) return {};
  return launch_early("l2norm", launch, l2norm_kernel, grid_for(count, kWarps, *launch.info),
                      kWarps * 32, 0, params);
}

}  // namespace

core::DeviceKernels<ops::L2NormParams> l2norm_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
