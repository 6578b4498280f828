// RMSNorm on CUDA: a warp for each row of a head, a block for each row of a whole token.
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/qk_rows.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 256;
/// Longer rows take a block: with few tokens a warp alone would wait for memory again and again,
/// and eight rows of a block leave most multiprocessors without any.
constexpr std::int64_t kLongestOfWarp = 512;

struct NormParams {
  View x, weight, out;
  std::int64_t tokens, heads, dim;
  float epsilon;
  float offset;  // of the weight
};

template <int N, int Lanes>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const __grid_constant__ NormParams p) {
  __shared__ float partial[kThreads / 32];
  let_next_begin();
  wait_for_writers();
  constexpr int kRows = kThreads / Lanes;  // of a block
  const int lane = threadIdx.x % Lanes;
  const RowElements weight = row_of(p.weight, 0);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kRows;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRows + threadIdx.x / Lanes;
       i < p.tokens * p.heads; i += step) {
    const Split at = split(i, p.heads);
    const RowElements x = row_of(p.x, at.whole, at.rest);
    const RowElements out = row_of(p.out, at.whole, at.rest);
    float squares = sum_squares<N>(x, p.dim, lane, Lanes);
    if constexpr (Lanes == 32) {
      squares = sum_lanes(squares);
    } else {
      squares = sum_block<Lanes / 32>(squares, partial);
    }
    const float factor = rms_factor(squares, p.dim, p.epsilon);
#pragma unroll 1
    for (std::int64_t d = lane * N; d < p.dim; d += Lanes * N) {
      float values[N];
      load_elements(x, d, values);
      scale_by_weight(values, factor, weight, p.offset, d);
      store_elements(out, d, values);
    }
  }
}

template <int N>
Status launch_rows(const NormParams& p, const core::DeviceLaunch& launch) {
  const std::int64_t rows = p.tokens * p.heads;
  if (p.dim > kLongestOfWarp) {
    return launch_early("rms_norm", launch, rms_norm_kernel<N, kThreads>,
                        grid_for(rows, 1, *launch.info), kThreads, 0, p);
  }
  return launch_early("rms_norm", launch, rms_norm_kernel<N, 32>,
                      grid_for(rows, kThreads / 32, *launch.info), kThreads, 0, p);
}

Status run(const ops::RmsNormParams& p, const core::DeviceLaunch& launch) {
  const NormParams params{View(p.x),  View(p.weight), View(p.out), p.x.dim(0),
                          p.x.dim(1), p.x.dim(2),     p.epsilon,   p.zero_centered ? 1.0f : 0.0f};
  if (params.tokens * params.heads * params.dim == 0) return {};
  const bool packs = in_packs(params.dim, p.x, p.weight, ConstTensorView(p.out));
  return packs ? launch_rows<kPack>(params, launch) : launch_rows<1>(params, launch);
}

}  // namespace

core::DeviceKernels<ops::RmsNormParams> rms_norm_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
