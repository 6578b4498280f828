// What the two causal convolutions share: one vector of channels walks down some tokens with its
// window in registers.
#include "src/cpu/simd-inl.h"
#include "src/ops/causal_conv_params.h"

#if defined(HYBRIDATTN_CPU_CONV_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_CONV_INL_H_
#undef HYBRIDATTN_CPU_CONV_INL_H_
#else
#define HYBRIDATTN_CPU_CONV_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Channels of one task. A row's tokens lie whole rows of x apart, so a task takes several vectors
/// at once and uses each cache line that it touches.
inline constexpr std::int64_t kChannels = 64;

/// Channels [channel, channel + count) of one row.
struct ConvBlock {
  std::int32_t row;
  std::int64_t channel;
  std::int64_t count;
};

/// The block's weights and its inputs before the next token, one vector of channels for each place.
template <int W>
struct ConvWindow {
  float taps[W][kChannels];
  float past[W - 1][kChannels];

  void load_taps(const ops::CausalConvParams& p, const ConvBlock& block) {
    for (std::int64_t c = 0; c < block.count; ++c) {
      float values[W];
      load_row(row2(p.weight, block.channel + c), p.weight.dtype, W, values);
      for (int i = 0; i < W; ++i) taps[i][c] = values[i];
    }
  }
  void clear() {
    for (auto& place : past) std::memset(place, 0, sizeof place);
  }
  void load(const ConstTensorView& states, std::int64_t slot, const ConvBlock& block) {
    for (std::int64_t c = 0; c < block.count; ++c) {
      float values[W - 1];
      load_row(row3(states, slot, block.channel + c), states.dtype, W - 1, values);
      for (int i = 0; i < W - 1; ++i) past[i][c] = values[i];
    }
  }
  void store(const TensorView& states, std::int64_t slot, const ConvBlock& block) const {
    for (std::int64_t c = 0; c < block.count; ++c) {
      float values[W - 1];
      for (int i = 0; i < W - 1; ++i) values[i] = past[i][c];
      store_row(values, W - 1, row3(states, slot, block.channel + c), states.dtype);
    }
  }

  /// Outputs of tokens [begin, end); `past` is left as their last W-1 inputs.
  void run(const ops::CausalConvParams& p, const ConvBlock& block, std::int64_t begin,
           std::int64_t end) {
    for_vectors(block.count, [&](std::int64_t at, std::int64_t n) {
      run_vector(p, block.channel + at, at, n, begin, end);
    });
  }

 private:
  void run_vector(const ops::CausalConvParams& p, std::int64_t channel, std::int64_t at,
                  std::int64_t count, std::int64_t begin, std::int64_t end) {
    VF w[W];
    VF before[W - 1];
    for (int i = 0; i < W; ++i) w[i] = load_part(taps[i] + at, count);
    for (int i = 0; i < W - 1; ++i) before[i] = load_part(past[i] + at, count);
    alignas(64) float x[HWY_MAX_BYTES / sizeof(float)];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::byte* source = element(p.x, t * p.x.stride(0) + channel);
      const VF now = load_part(row_f32(source, p.x.dtype, count, x), count);
      VF sum = hn::Mul(w[0], before[0]);
      for (int i = 1; i < W - 1; ++i) sum = hn::MulAdd(w[i], before[i], sum);
      sum = hn::MulAdd(w[W - 1], now, sum);
      for (int i = 0; i + 1 < W - 1; ++i) before[i] = before[i + 1];
      before[W - 2] = now;
      if (p.silu) sum = hn::Mul(sum, sigmoid(sum));
      store_part(sum, x, count);
      store_row(x, count, element(p.out, t * p.out.stride(0) + channel), p.out.dtype);
    }
    for (int i = 0; i < W - 1; ++i) store_part(before[i], past[i] + at, count);
  }
};

inline void zero_outputs(const ops::CausalConvParams& p, const ConvBlock& block) {
  const std::int64_t begin = p.rows.start[block.row];
  for (std::int64_t t = begin; t < begin + p.rows.length[block.row]; ++t) {
    zero_row(block.count, element(p.out, t * p.out.stride(0) + block.channel), p.out.dtype);
  }
}

/// Calls body.template operator()<W>(block) for every block of every row that has a state and
/// tokens; outputs of pad rows become zeros.
template <class Body>
void for_conv_blocks(const ops::CausalConvParams& p, core::Launch& launch, const Body& body) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t channels = p.x.dim(1);
  const std::int64_t blocks = (channels + kChannels - 1) / kChannels;
  parallel_for(launch.executor, p.rows.count * blocks, [&](std::int64_t task, int) {
    const auto row = static_cast<std::int32_t>(task / blocks);
    const std::int64_t channel = task % blocks * kChannels;
    const ConvBlock block{row, channel,
                          channels - channel < kChannels ? channels - channel : kChannels};
    if (p.rows.length[row] == 0) return;
    if (p.rows.slot[row] == kPadIndex) return zero_outputs(p, block);
    switch (p.weight.dim(1)) {
      case 2: return body.template operator()<2>(block);
      case 3: return body.template operator()<3>(block);
      default: return body.template operator()<4>(block);
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_CONV_INL_H_
