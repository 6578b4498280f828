// The causal convolution on CUDA: a thread walks a part of a row for a few channels.
#include "hybridattn/ops/gdn_prefill.h"
#include "src/cuda/checkpoints.cuh"
#include "src/cuda/conv.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

/// Tokens of one thread, a part of a chunk; as many of their inputs are on their way at once as a
/// half.
constexpr int kPart = 16, kAtOnce = 8, kParts = kGdnChunk / kPart;

/// N channels side by side, as whole words of one type.
template <class X, int N>
struct Packed {
  static constexpr int kChannels = N;
  struct alignas(N * sizeof(X)) Raw {
    X x[N];
  };
  static __device__ Raw fetch(const View& x, std::int64_t token, int channel) {
    return *reinterpret_cast<const Raw*>(x.as<const X>() + x.at(token, channel));
  }
  static __device__ float get(const Raw& raw, int n) { return to_float(raw.x[n]); }
  /// Four taps of each channel, which lie one after the other.
  static __device__ void load_taps(const View& weight, int channel, float (&taps)[4][N]) {
    Raw raw[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      raw[i] = *reinterpret_cast<const Raw*>(weight.as<const X>() + weight.at(channel) + i * N);
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int w = 0; w < 4; ++w) taps[w][n] = to_float(raw[(4 * n + w) / N].x[(4 * n + w) % N]);
    }
  }
  static __device__ void store(const View& out, std::int64_t token, int channel,
                               const float (&values)[N]) {
    Raw raw;
#pragma unroll
    for (int n = 0; n < N; ++n) raw.x[n] = from_float<X>(values[n]);
    *reinterpret_cast<Raw*>(out.as<X>() + out.at(token, channel)) = raw;
  }
};

/// One channel, of any types and strides.
struct Alone {
  static constexpr int kChannels = 1;
  using Raw = float;
  static __device__ Raw fetch(const View& x, std::int64_t token, int channel) {
    return load(x, x.at(token, channel));
  }
  static __device__ float get(Raw raw, int) { return raw; }
  static __device__ void load_taps(const View& weight, int channel, float (&taps)[4][1]) {
#pragma unroll
    for (int w = 0; w < 4; ++w) taps[w][0] = load(weight, weight.at(channel, w));
  }
  static __device__ void store(const View& out, std::int64_t token, int channel,
                               const float (&values)[1]) {
    cuda::store(out, out.at(token, channel), values[0]);
  }
};

/// A column of the row's state, counted from its end; the new state needs no more than the inputs.
__device__ inline float in_state(const ConvParams& p, const Row& row, int channel, int i) {
  return row.computed == 0 ? 0.0f : load(p.state, p.state.at(row.slot, channel, p.width - 1 + i));
}

/// The last inputs of the row's first `tokens` tokens, those before the row from its state, to a
/// slot.
template <class Channels>
__device__ void store_state(const ConvParams& p, const Row& row, int channel, int tokens,
                            std::int32_t slot) {
#pragma unroll
  for (int n = 0; n < Channels::kChannels; ++n) {
    float last[kMaxConvWidth - 1];
#pragma unroll
    for (int w = 0; w < kMaxConvWidth - 1; ++w) {
      const int i = tokens - (p.width - 1) + w;
      if (w < p.width - 1) {
        last[w] = i < 0 ? in_state(p, row, channel + n, i)
                        : load(p.x, p.x.at(row.start + i, channel + n));
      }
    }
#pragma unroll
    for (int w = 0; w < kMaxConvWidth - 1; ++w) {
      if (w < p.width - 1) store(p.state, p.state.at(slot, channel + n, w), last[w]);
    }
  }
}

/// The row's checkpoints behind tokens [first, end): the old state is needed by those of the row's
/// first part alone.
template <class Channels>
__device__ void store_checkpoints(const ConvParams& p, const Row& row, int index, int channel,
                                  int first, int end) {
  CheckpointsLeft left(p.checkpoints, index);
  for (; left.next < left.end; ++left.next) {
    const int tokens = p.checkpoints.tokens[left.next];
    const std::int32_t slot = p.checkpoints.slot[left.next];
    if (tokens > first && tokens <= end && slot != kPadIndex) {
      store_state<Channels>(p, row, channel, tokens, slot);
    }
  }
}

/// Checkpoints get registers of their own: for as many blocks as without them there are too few.
template <class Channels, bool kCheckpoints>
__global__ void __launch_bounds__(kConvThreads, kCheckpoints ? 4 : 0)
    conv_kernel(const __grid_constant__ ConvParams p) {
  constexpr int kN = Channels::kChannels;
  let_next_begin();
  wait_for_writers();
  const int chunk = static_cast<int>(blockIdx.x / kParts);
  const int index = p.rows.chunk_row[chunk];
  if (index < 0) return;
  const int channel = static_cast<int>(blockIdx.y * kConvThreads + threadIdx.x) * kN;
  if (channel >= p.channels) return;
  const Row row = load_row(p.rows, index);
  const int first = (chunk - p.rows.first_chunk[index]) * kGdnChunk +
                    static_cast<int>(blockIdx.x % kParts) * kPart;
  const int end = min(first + kPart, row.length);
  if (row.slot == kPadIndex) {
    const float zeros[kN]{};
    for (int i = first; i < end; ++i) Channels::store(p.out, row.start + i, channel, zeros);
    return;
  }
  float taps[kMaxConvWidth][kN], window[kMaxConvWidth][kN];  // the newest input last
  const int shift = kMaxConvWidth - p.width;                 // narrower filters: leading taps are 0
  if (p.whole_taps) {
    Channels::load_taps(p.weight, channel, taps);
  } else {
#pragma unroll
    for (int w = 0; w < kMaxConvWidth; ++w) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        taps[w][n] = w < shift ? 0.0f : load(p.weight, p.weight.at(channel + n, w - shift));
      }
    }
  }
#pragma unroll
  for (int w = 0; w < kMaxConvWidth; ++w) {
    const int i = first + w - kMaxConvWidth;
    const bool wanted = w > shift && first < end;
    typename Channels::Raw raw{};
    if (wanted && i >= 0) raw = Channels::fetch(p.x, row.start + i, channel);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      window[w][n] = wanted && i < 0 ? in_state(p, row, channel + n, i) : Channels::get(raw, n);
    }
  }
  if constexpr (kCheckpoints) {
    store_checkpoints<Channels>(p, row, index, channel, first, end);
  }
  // By the threads of the first part: no others read the old state.
  if (first == 0) store_state<Channels>(p, row, channel, row.length, row.slot);
  for (int i = first; i < end; i += kAtOnce) {
    typename Channels::Raw raw[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (i + j < end) raw[j] = Channels::fetch(p.x, row.start + i + j, channel);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (i + j >= end) break;
      float sum[kN];
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int w = 0; w + 1 < kMaxConvWidth; ++w) window[w][n] = window[w + 1][n];
        window[kMaxConvWidth - 1][n] = Channels::get(raw[j], n);
        sum[n] = 0.0f;
#pragma unroll
        for (int w = 0; w < kMaxConvWidth; ++w) sum[n] = fmaf(taps[w][n], window[w][n], sum[n]);
        if (p.silu) sum[n] = silu(sum[n]);
      }
      Channels::store(p.out, row.start + i + j, channel, sum);
    }
  }
}

template <class Channels>
Status launch_conv(const ConvParams& p, const core::DeviceLaunch& launch) {
  dim3 grid = p.grid(p.rows.chunks);
  grid.x *= kParts;
  grid.y = (grid.y + Channels::kChannels - 1) / Channels::kChannels;
  const auto kernel =
      p.checkpoints.first == nullptr ? conv_kernel<Channels, false> : conv_kernel<Channels, true>;
  return launch_early("causal_conv", launch, kernel, grid, kConvThreads, 0, p);
}

/// Whether a thread may take its channels of x and out as whole words.
bool is_packed(const ops::CausalConvParams& p) {
  return p.x.dtype == p.out.dtype && p.x.dim(1) % 4 == 0 && rows_aligned(p.x) &&
         rows_aligned(p.out);
}

/// Whether the taps of the channels of a thread are whole words, in the type of x.
bool has_whole_taps(const ops::CausalConvParams& p) {
  return p.weight.dtype == p.x.dtype && p.weight.dim(1) == 4 && p.weight.stride(1) == 1 &&
         p.weight.stride(0) == 4 && reinterpret_cast<std::uintptr_t>(p.weight.data) % 16 == 0;
}

Status run(const ops::CausalConvParams& p, const core::DeviceLaunch& launch) {
  ConvParams params(p);
  params.whole_taps = has_whole_taps(p);
  if (params.rows.chunks == 0 || params.channels == 0) return {};
  if (!is_packed(p)) return launch_conv<Alone>(params, launch);
  switch (p.x.dtype) {
    case DType::kBF16: return launch_conv<Packed<__nv_bfloat16, 4>>(params, launch);
    case DType::kF16: return launch_conv<Packed<__half, 4>>(params, launch);
    default: return launch_conv<Packed<float, 4>>(params, launch);
  }
}

}  // namespace

core::DeviceKernels<ops::CausalConvParams> causal_conv_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
