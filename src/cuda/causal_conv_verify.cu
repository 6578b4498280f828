// The causal convolution of drafted tokens on CUDA: a thread finds the inputs of one token and
// channel by walking from the token to those that it follows.
#include "src/cuda/element.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxWidth = 4;

struct ConvVerifyParams {
  DeviceRowTables rows;
  const std::int32_t* kept_row;
  const std::int32_t* parents;
  View x, weight, state, kept, out;
  int channels, width;
  bool silu;
};

__device__ void run_token(const ConvVerifyParams& p, const Row& row, int index, int i,
                          int channel) {
  float sum = 0.0f;
  std::int64_t at = i;      // the token of this tap; below 0: a column of the state from its end
  float window[kMaxWidth];  // the newest input first
#pragma unroll
  for (int w = 0; w < kMaxWidth; ++w) {
    if (w >= p.width) break;
    float input = 0.0f;
    if (at >= 0) {
      input = load(p.x, p.x.at(row.start + at, channel));
      at = parent_of(p.parents, row.start, at);
    } else {
      if (row.computed > 0) input = load(p.state, p.state.at(row.slot, channel, p.width - 1 + at));
      --at;
    }
    window[w] = input;
    sum = fmaf(load(p.weight, p.weight.at(channel, p.width - 1 - w)), input, sum);
  }
  store(p.out, p.out.at(row.start + i, channel), p.silu ? silu(sum) : sum);
#pragma unroll
  for (int w = 0; w < kMaxWidth - 1; ++w) {
    if (w >= p.width - 1) break;
    store(p.kept, p.kept.at(p.kept_row[index] + i, channel, p.width - 2 - w), window[w]);
  }
}

__global__ void __launch_bounds__(kThreads)
    conv_verify_kernel(const __grid_constant__ ConvVerifyParams p) {
  const int channel = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (channel >= p.channels) return;
  const int index = static_cast<int>(blockIdx.x);
  const Row row = load_row(p.rows.start, p.rows.length, p.rows.slot, p.rows.computed, index);
  for (int i = 0; i < row.length; ++i) {
    if (row.slot == kPadIndex) {
      store(p.out, p.out.at(row.start + i, channel), 0.0f);
    } else {
      run_token(p, row, index, i, channel);
    }
  }
}

Status run(const ops::CausalConvVerifyParams& v, const core::DeviceLaunch& launch) {
  const ops::CausalConvParams& p = v.conv;
  const ConvVerifyParams params{*p.rows.device,
                                v.verify.device_kept,
                                v.verify.device_parents,
                                View(p.x),
                                View(p.weight),
                                View(p.state),
                                View(v.kept),
                                View(p.out),
                                static_cast<int>(p.x.dim(1)),
                                static_cast<int>(p.weight.dim(1)),
                                p.silu};
  if (params.rows.count == 0 || params.channels == 0) return {};
  const dim3 grid(static_cast<unsigned>(params.rows.count),
                  static_cast<unsigned>((params.channels + kThreads - 1) / kThreads));
  conv_verify_kernel<<<grid, kThreads, 0, stream_of(launch)>>>(params);
  return check_launch("causal_conv_verify");
}

}  // namespace

core::DeviceKernels<ops::CausalConvVerifyParams> causal_conv_verify_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
