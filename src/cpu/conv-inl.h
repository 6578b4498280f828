// What the two causal convolutions share: a block of channels walks down some tokens with its
// window beside it.
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

/// Channels of one task: of a token they lie side by side, and the windows of all of them fit the
/// first-level cache.
inline constexpr std::int64_t kChannels = 256;

/// Channels [channel, channel + count) of one row.
struct ConvBlock {
  std::int32_t row;
  std::int64_t channel;
  std::int64_t count;
};

/// W - 1 or W values of each of `count` channels, [channel][place] in memory, as [place][channel].
template <int N>
void load_places(const std::byte* source, DType dtype, std::int64_t stride, std::int64_t count,
                 float (*places)[kChannels]) {
  std::int64_t c = 0;
  if (dtype == DType::kF32 && stride == N) {
    const DF d;
    const auto* values = reinterpret_cast<const float*>(source);
    for (; c + lanes() <= count; c += lanes()) {
      VF v[4];
      if constexpr (N == 1) v[0] = hn::LoadU(d, values + c);
      if constexpr (N == 2) hn::LoadInterleaved2(d, values + c * N, v[0], v[1]);
      if constexpr (N == 3) hn::LoadInterleaved3(d, values + c * N, v[0], v[1], v[2]);
      if constexpr (N == 4) hn::LoadInterleaved4(d, values + c * N, v[0], v[1], v[2], v[3]);
      for (int i = 0; i < N; ++i) hn::StoreU(v[i], d, places[i] + c);
    }
  }
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  for (; c < count; ++c) {
    float values[N];
    load_row(source + c * stride * size, dtype, N, values);
    for (int i = 0; i < N; ++i) places[i][c] = values[i];
  }
}

template <int N>
void store_places(const float (*places)[kChannels], std::int64_t count, std::byte* to, DType dtype,
                  std::int64_t stride) {
  std::int64_t c = 0;
  if (dtype == DType::kF32 && stride == N) {
    const DF d;
    auto* values = reinterpret_cast<float*>(to);
    for (; c + lanes() <= count; c += lanes()) {
      VF v[3];
      for (int i = 0; i < N; ++i) v[i] = hn::LoadU(d, places[i] + c);
      if constexpr (N == 1) hn::StoreU(v[0], d, values + c);
      if constexpr (N == 2) hn::StoreInterleaved2(v[0], v[1], d, values + c * N);
      if constexpr (N == 3) hn::StoreInterleaved3(v[0], v[1], v[2], d, values + c * N);
    }
  }
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  for (; c < count; ++c) {
    float values[N];
    for (int i = 0; i < N; ++i) values[i] = places[i][c];
    store_row(values, N, to + c * stride * size, dtype);
  }
}

/// The block's weights and its inputs before the next token, one row of channels for each place.
template <int W>
struct ConvWindow {
  alignas(64) float taps[W][kChannels] = {};
  alignas(64) float past[W - 1][kChannels] = {};

  void load_taps(const ops::CausalConvParams& p, const ConvBlock& block) {
    load_places<W>(row2(p.weight, block.channel), p.weight.dtype, p.weight.stride(0), block.count,
                   taps);
  }
  void clear() {
    for (auto& place : past) std::memset(place, 0, sizeof place);
  }
  void load(const ConstTensorView& states, std::int64_t slot, const ConvBlock& block) {
    load_places<W - 1>(row3(states, slot, block.channel), states.dtype, states.stride(1),
                       block.count, past);
  }
  void store(const TensorView& states, std::int64_t slot, const ConvBlock& block) const {
    store_places<W - 1>(past, block.count, row3(states, slot, block.channel), states.dtype,
                        states.stride(1));
  }

  /// Outputs of tokens [begin, end); `past` is left as their last W-1 inputs.
  void run(const ops::CausalConvParams& p, const ConvBlock& block, std::int64_t begin,
           std::int64_t end) {
    if (p.x.dtype == p.out.dtype && end - begin > 1) {
      switch (p.x.dtype) {
        case DType::kF32: return run_of<float>(p, block, begin, end);
        case DType::kBF16: return run_of<BF16>(p, block, begin, end);
        default: return run_of<F16>(p, block, begin, end);
      }
    }
    alignas(64) float newest[kChannels] = {}, out[kChannels];
    for (std::int64_t t = begin; t < end; ++t) {
      if (t + kAhead < end) prefetch(p, block, t + kAhead);
      load_row(element(p.x, t * p.x.stride(0) + block.channel), p.x.dtype, block.count, newest);
      // Whole vectors: what lies behind the last channel is computed and not stored.
      for (std::int64_t at = 0; at < block.count; at += lanes()) {
        Places places(*this, at);
        hn::StoreU(places.step(hn::LoadU(DF(), newest + at), p.silu), DF(), out + at);
        places.store(*this, at);
      }
      store_row(out, block.count, element(p.out, t * p.out.stride(0) + block.channel), p.out.dtype);
    }
  }

 private:
  /// Tokens lie far apart: no processor sees a block's walk down them coming.
  static constexpr std::int64_t kAhead = 4;
  static void prefetch(const ops::CausalConvParams& p, const ConvBlock& block, std::int64_t t) {
    const std::byte* x = element(p.x, t * p.x.stride(0) + block.channel);
    const std::byte* out = element(ConstTensorView(p.out), t * p.out.stride(0) + block.channel);
    const auto x_size = static_cast<std::int64_t>(dtype_size(p.x.dtype));
    const auto out_size = static_cast<std::int64_t>(dtype_size(p.out.dtype));
    for (std::int64_t i = 0; i < block.count * x_size; i += 64) __builtin_prefetch(x + i);
    for (std::int64_t i = 0; i < block.count * out_size; i += 64) __builtin_prefetch(out + i, 1);
  }

  /// The same where inputs and outputs are of one type: a few tokens of each vector of channels,
  /// whose window stays in registers for as long.
  template <class T>
  void run_of(const ops::CausalConvParams& p, const ConvBlock& block, std::int64_t begin,
              std::int64_t end) {
    for (std::int64_t t = begin; t < end; t += kAhead) {
      const std::int64_t tokens = end - t < kAhead ? end - t : kAhead;
      for (std::int64_t i = kAhead; i < 2 * kAhead && t + i < end; ++i) prefetch(p, block, t + i);
      const auto* x = reinterpret_cast<const T*>(element(p.x, t * p.x.stride(0) + block.channel));
      auto* out = reinterpret_cast<T*>(element(p.out, t * p.out.stride(0) + block.channel));
      for (std::int64_t at = 0; at < block.count; at += lanes()) {
        const std::int64_t width = block.count - at < lanes() ? block.count - at : lanes();
        Places places(*this, at);
        for (std::int64_t i = 0; i < tokens; ++i) {
          const T* from = x + i * p.x.stride(0) + at;
          const VF now = width == lanes() ? load_full(from) : load_part(from, width);
          store_part(places.step(now, p.silu), out + i * p.out.stride(0) + at, width);
        }
        places.store(*this, at);
      }
    }
  }

  /// One vector of channels: its weights, and its inputs before the next token.
  struct Places {
    HWY_INLINE Places(const ConvWindow& window, std::int64_t at) {
      for (int i = 0; i < W; ++i) taps[i] = hn::LoadU(DF(), window.taps[i] + at);
      for (int i = 0; i < W - 1; ++i) before[i] = hn::LoadU(DF(), window.past[i] + at);
    }
    HWY_INLINE VF step(VF now, bool silu) {
      VF sum = hn::Mul(taps[0], before[0]);
      for (int i = 1; i < W - 1; ++i) sum = hn::MulAdd(taps[i], before[i], sum);
      sum = hn::MulAdd(taps[W - 1], now, sum);
      if (silu) sum = hn::Mul(sum, sigmoid(sum));
      for (int i = 0; i + 1 < W - 1; ++i) before[i] = before[i + 1];
      before[W - 2] = now;
      return sum;
    }
    HWY_INLINE void store(ConvWindow& window, std::int64_t at) const {
      for (int i = 0; i < W - 1; ++i) hn::StoreU(before[i], DF(), window.past[i] + at);
    }

    VF taps[W];
    VF before[W - 1];
  };
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
