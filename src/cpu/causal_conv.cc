// Causal convolution on the CPU: one vector of channels walks down a row's tokens with its window
// in registers.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/causal_conv.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/kernels.h"
#include "src/cpu/simd-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Channels of one task. A row's tokens lie whole rows of x apart, so a task takes several vectors
/// at once and uses each cache line that it touches.
inline constexpr std::int64_t kChannels = 64;

/// One vector of channels of one row. `taps[w][c]` and `window[w][c]` are transposed for it; the
/// window is left as the last W-1 inputs.
template <int W>
void convolve(const ops::CausalConvParams& p, std::int32_t row, std::int64_t channel,
              std::int64_t count, const float (*taps)[kChannels], float (*window)[kChannels],
              std::int64_t at) {
  VF w[W];
  VF past[W - 1];
  for (int i = 0; i < W; ++i) w[i] = load_part(taps[i] + at, count);
  for (int i = 0; i < W - 1; ++i) past[i] = load_part(window[i] + at, count);
  alignas(64) float x[HWY_MAX_BYTES / sizeof(float)];
  const std::int64_t begin = p.rows.start[row];
  for (std::int64_t t = begin; t < begin + p.rows.length[row]; ++t) {
    const std::byte* source = element(p.x, t * p.x.stride(0) + channel);
    const VF now = load_part(row_f32(source, p.x.dtype, count, x), count);
    VF sum = hn::Mul(w[0], past[0]);
    for (int i = 1; i < W - 1; ++i) sum = hn::MulAdd(w[i], past[i], sum);
    sum = hn::MulAdd(w[W - 1], now, sum);
    for (int i = 0; i + 1 < W - 1; ++i) past[i] = past[i + 1];
    past[W - 2] = now;
    if (p.silu) sum = hn::Mul(sum, sigmoid(sum));
    store_part(sum, x, count);
    store_row(x, count, element(p.out, t * p.out.stride(0) + channel), p.out.dtype);
  }
  for (int i = 0; i < W - 1; ++i) store_part(past[i], window[i] + at, count);
}

void zero_outputs(const ops::CausalConvParams& p, std::int32_t row, std::int64_t channel,
                  std::int64_t count) {
  const std::int64_t begin = p.rows.start[row];
  for (std::int64_t t = begin; t < begin + p.rows.length[row]; ++t) {
    zero_row(count, element(p.out, t * p.out.stride(0) + channel), p.out.dtype);
  }
}

/// The state of a block of channels to or from its transposed window.
template <int W>
void load_window(const ops::CausalConvParams& p, std::int32_t row, std::int64_t channel,
                 std::int64_t count, float (*window)[kChannels]) {
  const bool fresh = p.rows.computed[row] == 0;
  for (std::int64_t c = 0; c < count; ++c) {
    float values[W - 1] = {};
    if (!fresh) {
      load_row(row3(p.state, p.rows.slot[row], channel + c), p.state.dtype, W - 1, values);
    }
    for (int i = 0; i < W - 1; ++i) window[i][c] = values[i];
  }
}
template <int W>
void store_window(const ops::CausalConvParams& p, std::int32_t row, std::int64_t channel,
                  std::int64_t count, const float (*window)[kChannels]) {
  for (std::int64_t c = 0; c < count; ++c) {
    float values[W - 1];
    for (int i = 0; i < W - 1; ++i) values[i] = window[i][c];
    store_row(values, W - 1, row3(p.state, p.rows.slot[row], channel + c), p.state.dtype);
  }
}

template <int W>
void convolve_block(const ops::CausalConvParams& p, std::int32_t row, std::int64_t channel,
                    std::int64_t count) {
  float taps[W][kChannels];
  float window[W - 1][kChannels];
  for (std::int64_t c = 0; c < count; ++c) {
    float values[W];
    load_row(row2(p.weight, channel + c), p.weight.dtype, W, values);
    for (int i = 0; i < W; ++i) taps[i][c] = values[i];
  }
  load_window<W>(p, row, channel, count, window);
  for_vectors(count, [&](std::int64_t at, std::int64_t n) {
    convolve<W>(p, row, channel + at, n, taps, window, at);
  });
  store_window<W>(p, row, channel, count, window);
}

void causal_conv(const ops::CausalConvParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t channels = p.x.dim(1);
  const std::int64_t blocks = (channels + kChannels - 1) / kChannels;
  parallel_for(launch.executor, p.rows.count * blocks, [&](std::int64_t task, int) {
    const auto row = static_cast<std::int32_t>(task / blocks);
    const std::int64_t channel = task % blocks * kChannels;
    const std::int64_t count = channels - channel < kChannels ? channels - channel : kChannels;
    if (p.rows.length[row] == 0) return;
    if (p.rows.slot[row] == kPadIndex) return zero_outputs(p, row, channel, count);
    switch (p.weight.dim(1)) {
      case 2: return convolve_block<2>(p, row, channel, count);
      case 3: return convolve_block<3>(p, row, channel, count);
      default: return convolve_block<4>(p, row, channel, count);
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(causal_conv);

core::CpuVariants<ops::CausalConvParams> causal_conv_variants() {
  return variants<ops::CausalConvParams>(HWY_DISPATCH_TABLE(causal_conv));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
