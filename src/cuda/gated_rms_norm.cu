// Gated RMSNorm on CUDA: a warp for each token and head.
#include "src/cuda/element.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;

struct NormParams {
  View x, z, weight, out;
  const std::uint8_t* pad;  // optional [tokens]
  std::int64_t tokens;
  int heads, dim;
  float epsilon;
  bool sigmoid_gate;
};

__global__ void __launch_bounds__(kWarps * 32)
    gated_rms_norm_kernel(const __grid_constant__ NormParams p) {
  const int lane = threadIdx.x % 32;
  for (std::int64_t i = flat_index() / 32; i < p.tokens * p.heads; i += flat_step() / 32) {
    const std::int64_t token = i / p.heads;
    const std::int64_t head = i % p.heads;
    const std::uint8_t kind = p.pad == nullptr ? std::uint8_t{kNormed} : p.pad[token];
    if (kind == kLeftOut) continue;
    if (kind != kNormed) {
      for (int d = lane; d < p.dim; d += 32) store(p.out, p.out.at(token, head, d), 0.0f);
      continue;
    }
    float squares = 0.0f;
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      const float x = load(p.x, p.x.at(token, head, d));
      squares = fmaf(x, x, squares);
    }
    const float factor = inverse_root(sum_lanes(squares) / static_cast<float>(p.dim) + p.epsilon);
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      const float z = load(p.z, p.z.at(token, head, d));
      const float normed =
          load(p.x, p.x.at(token, head, d)) * factor * load(p.weight, p.weight.at(d));
      store(p.out, p.out.at(token, head, d), normed * (p.sigmoid_gate ? sigmoid(z) : silu(z)));
    }
  }
}

Status run(const ops::GatedRmsNormParams& p, const core::DeviceLaunch& launch) {
  const NormParams params{View(p.x),
                          View(p.z),
                          View(p.weight),
                          View(p.out),
                          p.pad,
                          p.x.dim(0),
                          static_cast<int>(p.x.dim(1)),
                          static_cast<int>(p.x.dim(2)),
                          p.epsilon,
                          p.gate == GateKind::kSigmoid};
  const std::int64_t count = params.tokens * params.heads;
  if (count == 0) return {};
  gated_rms_norm_kernel<<<grid_for(count, kWarps, *launch.info), kWarps * 32, 0,
                          stream_of(launch)>>>(params);
  return check_launch("gated_rms_norm");
}

}  // namespace

core::DeviceKernels<ops::GatedRmsNormParams> gated_rms_norm_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
