// The convolution inside the fused step: a thread has two neighbouring channels, whose windows,
// taps and inputs are whole words where the tensors are dense.
#pragma once

#include "src/cuda/conv.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/mma.cuh"
#include "src/cuda/smxx/gdn_decode.cuh"

namespace hybridattn::cuda {

/// What one channel reads: its inputs, the newest last, and its taps. Filters of fewer taps have
/// zeros in front.
template <class X>
struct ConvChannel {
  X inputs[kMaxConvWidth];
  X taps[kMaxConvWidth];

  __device__ ConvChannel(const DecodeParams& p, const Row& row, int channel) {
    const int shift = kMaxConvWidth - p.width;
    const X* window = p.conv_state.as<const X>() + p.conv_state.at(row.slot, channel);
    const X* weight = p.conv_weight.as<const X>() + p.conv_weight.at(channel);
#pragma unroll
    for (int w = 0; w < kMaxConvWidth; ++w) {
      inputs[w] = taps[w] = from_float<X>(0.0f);
      if (w >= shift) taps[w] = weight[(w - shift) * p.conv_weight.stride[1]];
      if (w >= shift && w + 1 < kMaxConvWidth && row.computed > 0) {
        inputs[w] = window[(w - shift) * p.conv_state.stride[2]];
      }
    }
    inputs[kMaxConvWidth - 1] = p.mixed.as<const X>()[p.mixed.at(row.start, channel)];
  }
};

__device__ inline float convolve(const float (&inputs)[kMaxConvWidth],
                                 const float (&taps)[kMaxConvWidth]) {
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kMaxConvWidth; ++w) sum = fmaf(taps[w], inputs[w], sum);
  return silu(sum);
}

/// The window of a channel after the step.
template <class X>
__device__ inline void store_window(const DecodeParams& p, const Row& row, int channel,
                                    const X (&inputs)[kMaxConvWidth]) {
  X* window = p.conv_state.as<X>() + p.conv_state.at(row.slot, channel);
  const int shift = kMaxConvWidth - p.width;
#pragma unroll
  for (int w = 1; w < kMaxConvWidth; ++w) {
    if (w > shift) window[(w - 1 - shift) * p.conv_state.stride[2]] = inputs[w];
  }
}

/// An even channel a and the next, b. Kept as words: they stay in registers until the windows are
/// moved on, beside the state.
template <class X>
struct ConvPair {
  std::uint32_t window[3], x;  // a0 a1, a2 b0, b1 b2; a3 b3
  std::uint32_t taps[4];       // a0 a1, a2 a3, b0 b1, b2 b3

  __device__ void load(const DecodeParams& p, const Row& row, int channel) {
    if (p.paired) {
      const auto* from = reinterpret_cast<const std::uint32_t*>(p.conv_state.as<const X>() +
                                                                p.conv_state.at(row.slot, channel));
#pragma unroll
      for (int i = 0; i < 3; ++i) window[i] = row.computed > 0 ? from[i] : 0;
      const uint4 words =
          *reinterpret_cast<const uint4*>(p.conv_weight.as<const X>() + p.conv_weight.at(channel));
      taps[0] = words.x, taps[1] = words.y, taps[2] = words.z, taps[3] = words.w;
      x = *reinterpret_cast<const std::uint32_t*>(p.mixed.as<const X>() +
                                                  p.mixed.at(row.start, channel));
      return;
    }
    const ConvChannel<X> a(p, row, channel), b(p, row, channel + 1);
    window[0] = word(a.inputs[0], a.inputs[1]);
    window[1] = word(a.inputs[2], b.inputs[0]);
    window[2] = word(b.inputs[1], b.inputs[2]);
    x = word(a.inputs[3], b.inputs[3]);
    taps[0] = word(a.taps[0], a.taps[1]), taps[1] = word(a.taps[2], a.taps[3]);
    taps[2] = word(b.taps[0], b.taps[1]), taps[3] = word(b.taps[2], b.taps[3]);
  }
  __device__ void results(float* out) const {
    const float2 w0 = unpack<X>(window[0]), w1 = unpack<X>(window[1]), w2 = unpack<X>(window[2]);
    const float2 newest = unpack<X>(x);
    const float2 t0 = unpack<X>(taps[0]), t1 = unpack<X>(taps[1]);
    const float2 t2 = unpack<X>(taps[2]), t3 = unpack<X>(taps[3]);
    *reinterpret_cast<float2*>(out) =
        make_float2(convolve({w0.x, w0.y, w1.x, newest.x}, {t0.x, t0.y, t1.x, t1.y}),
                    convolve({w1.y, w2.x, w2.y, newest.y}, {t2.x, t2.y, t3.x, t3.y}));
  }
  __device__ void store_windows(const DecodeParams& p, const Row& row, int channel) const {
    if (p.paired) {
      auto* to = reinterpret_cast<std::uint32_t*>(p.conv_state.as<X>() +
                                                  p.conv_state.at(row.slot, channel));
      to[0] = __byte_perm(window[0], window[1], 0x5432);
      to[1] = __byte_perm(x, window[2], 0x5410);
      to[2] = __byte_perm(window[2], x, 0x7632);
      return;
    }
    store_window<X>(p, row, channel, {low(window[0]), high(window[0]), low(window[1]), low(x)});
    store_window<X>(p, row, channel + 1,
                    {high(window[1]), low(window[2]), high(window[2]), high(x)});
  }

 private:
  union Bits {
    X element;
    unsigned short bits;
  };
  __device__ static std::uint32_t word(X low, X high) {
    return Bits{low}.bits | std::uint32_t{Bits{high}.bits} << 16;
  }
  __device__ static X low(std::uint32_t word) {
    Bits out;
    out.bits = static_cast<unsigned short>(word);
    return out.element;
  }
  __device__ static X high(std::uint32_t word) { return low(word >> 16); }
};

template <>
struct ConvPair<float> {
  float a[kMaxConvWidth], b[kMaxConvWidth], taps_a[kMaxConvWidth], taps_b[kMaxConvWidth];

  __device__ void load(const DecodeParams& p, const Row& row, int channel) {
    const ConvChannel<float> first(p, row, channel), second(p, row, channel + 1);
#pragma unroll
    for (int w = 0; w < kMaxConvWidth; ++w) {
      a[w] = first.inputs[w], taps_a[w] = first.taps[w];
      b[w] = second.inputs[w], taps_b[w] = second.taps[w];
    }
  }
  __device__ void results(float* out) const {
    *reinterpret_cast<float2*>(out) = make_float2(convolve(a, taps_a), convolve(b, taps_b));
  }
  __device__ void store_windows(const DecodeParams& p, const Row& row, int channel) const {
    store_window<float>(p, row, channel, a);
    store_window<float>(p, row, channel + 1, b);
  }
};

}  // namespace hybridattn::cuda
