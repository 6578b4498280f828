// The causal convolution of drafted tokens on CUDA: a thread finds the inputs of one token and
// channel by walking from the token to those that it follows.
#include "src/cuda/conv.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

struct ConvVerifyParams : ConvParams {
  const std::int32_t* kept_row;
  const std::int32_t* parents;
  View kept;

  explicit ConvVerifyParams(const ops::CausalConvVerifyParams& v)
      : ConvParams(v.conv), kept_row(v.verify.device_kept), parents(v.verify.device_parents),
        kept(v.kept) {}
};

__device__ void run_token(const ConvVerifyParams& p, const Row& row, int index, int i,
                          int channel) {
  std::int64_t at = i;  // the token of this tap; below 0: a column of the state from its end
  float window[kMaxConvWidth];  // the newest input first
#pragma unroll
  for (int w = 0; w < kMaxConvWidth; ++w) {
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
  }
  float sum = 0.0f;  // the oldest first, as causal_conv adds
#pragma unroll
  for (int w = kMaxConvWidth - 1; w >= 0; --w) {
    if (w < p.width)
      sum = fmaf(load(p.weight, p.weight.at(channel, p.width - 1 - w)), window[w], sum);
  }
  store(p.out, p.out.at(row.start + i, channel), p.silu ? silu(sum) : sum);
#pragma unroll
  for (int w = 0; w < kMaxConvWidth - 1; ++w) {
    if (w >= p.width - 1) break;
    store(p.kept, p.kept.at(p.kept_row[index] + i, channel, p.width - 2 - w), window[w]);
  }
}

__global__ void __launch_bounds__(kConvThreads)
    conv_verify_kernel(const __grid_constant__ ConvVerifyParams p) {
  const int channel = static_cast<int>(blockIdx.y * kConvThreads + threadIdx.x);
  if (channel >= p.channels) return;
  const int index = static_cast<int>(blockIdx.x);
  const Row row = load_row(p.rows, index);
  for (int i = 0; i < row.length; ++i) {
    if (row.slot == kPadIndex) {
      store(p.out, p.out.at(row.start + i, channel), 0.0f);
    } else {
      run_token(p, row, index, i, channel);
    }
  }
}

Status run(const ops::CausalConvVerifyParams& v, const core::DeviceLaunch& launch) {
  const ConvVerifyParams params(v);
  if (params.rows.count == 0 || params.channels == 0) return {};
  conv_verify_kernel<<<params.grid(params.rows.count), kConvThreads, 0, stream_of(launch)>>>(
      params);
  return check_launch("causal_conv_verify");
}

}  // namespace

core::DeviceKernels<ops::CausalConvVerifyParams> causal_conv_verify_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
