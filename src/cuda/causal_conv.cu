// The causal convolution on CUDA: a thread walks a chunk of a row for one channel.
#include "hybridattn/ops/gdn_prefill.h"
#include "src/cuda/conv.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

/// Inputs of a channel around token 0 of a row: the row's own, or its state's to the left of it.
struct ConvRow {
  const ConvParams& p;
  Row row;
  int channel;

  __device__ float input(int i) const {
    if (i >= 0) return load(p.x, p.x.at(row.start + i, channel));
    if (row.computed == 0) return 0.0f;
    return load(p.state, p.state.at(row.slot, channel, p.width - 1 + i));
  }
};

__global__ void __launch_bounds__(kConvThreads) conv_kernel(const __grid_constant__ ConvParams p) {
  const int index = p.rows.chunk_row[blockIdx.x];
  if (index < 0) return;
  const int channel = static_cast<int>(blockIdx.y * kConvThreads + threadIdx.x);
  if (channel >= p.channels) return;
  const Row row = load_row(p.rows, index);
  const int first = (static_cast<int>(blockIdx.x) - p.rows.first_chunk[index]) * kGdnChunk;
  const int end = min(first + kGdnChunk, row.length);
  if (row.slot == kPadIndex) {
    for (int i = first; i < end; ++i) store(p.out, p.out.at(row.start + i, channel), 0.0f);
    return;
  }
  const ConvRow inputs{p, row, channel};
  float taps[kMaxConvWidth] = {}, window[kMaxConvWidth] = {};  // the newest input last
#pragma unroll
  for (int w = 0; w < kMaxConvWidth; ++w) {
    const int shift = kMaxConvWidth - p.width;  // narrower filters: leading taps are 0
    if (w < shift) continue;
    taps[w] = load(p.weight, p.weight.at(channel, w - shift));
    if (w > shift) window[w] = inputs.input(first + w - kMaxConvWidth);
  }
  // The new state. The block of the first chunk writes it: no other one reads the old.
  float last[kMaxConvWidth - 1] = {};
  if (first == 0) {
#pragma unroll
    for (int w = 0; w < kMaxConvWidth - 1; ++w) {
      if (w < p.width - 1) last[w] = inputs.input(row.length - (p.width - 1) + w);
    }
  }
#pragma unroll 4
  for (int i = first; i < end; ++i) {
#pragma unroll
    for (int w = 0; w < kMaxConvWidth - 1; ++w) window[w] = window[w + 1];
    window[kMaxConvWidth - 1] = load(p.x, p.x.at(row.start + i, channel));
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kMaxConvWidth; ++w) sum = fmaf(taps[w], window[w], sum);
    store(p.out, p.out.at(row.start + i, channel), p.silu ? silu(sum) : sum);
  }
  if (first != 0) return;
#pragma unroll
  for (int w = 0; w < kMaxConvWidth - 1; ++w) {
    if (w < p.width - 1) store(p.state, p.state.at(row.slot, channel, w), last[w]);
  }
}

Status run(const ops::CausalConvParams& p, const core::DeviceLaunch& launch) {
  const ConvParams params(p);
  if (params.rows.chunks == 0 || params.channels == 0) return {};
  conv_kernel<<<params.grid(params.rows.chunks), kConvThreads, 0, stream_of(launch)>>>(params);
  return check_launch("causal_conv");
}

}  // namespace

core::DeviceKernels<ops::CausalConvParams> causal_conv_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
