#include "src/ops/gdn_intermediates.h"

#include <cmath>

namespace hybridattn::ops {

std::size_t GdnIntermediates::bytes(const GdnDims& d) noexcept {
  const std::int64_t floats =
      d.tokens * (d.conv_channels() + d.decays() + d.v_heads + d.v_heads * d.v_dim);
  return static_cast<std::size_t>(floats) * sizeof(float);
}

GdnIntermediates::GdnIntermediates(std::byte* block, const GdnDims& d) : dims(d) {
  auto* next = reinterpret_cast<float*>(block);
  const auto take = [&](std::int64_t elements) {
    float* taken = next;
    next += elements;
    return taken;
  };
  conv_out =
      TensorView(take(d.tokens * d.conv_channels()), DType::kF32, {d.tokens, d.conv_channels()});
  float* decays = take(d.tokens * d.decays());
  log_decay = d.channel_decay ? TensorView(decays, DType::kF32, {d.tokens, d.v_heads, d.k_dim})
                              : TensorView(decays, DType::kF32, {d.tokens, d.v_heads});
  beta = TensorView(take(d.tokens * d.v_heads), DType::kF32, {d.tokens, d.v_heads});
  core_out =
      TensorView(take(d.tokens * d.v_heads * d.v_dim), DType::kF32, {d.tokens, d.v_heads, d.v_dim});
}

GdnArgs GdnIntermediates::delta_rule() const {
  const std::int64_t channels = dims.conv_channels();
  const std::int64_t keys = dims.key_channels();
  GdnArgs args;
  args.q = conv_out.at(0, {dims.tokens, dims.k_heads, dims.k_dim}, {channels, dims.k_dim, 1});
  args.k = conv_out.at(keys, {dims.tokens, dims.k_heads, dims.k_dim}, {channels, dims.k_dim, 1});
  args.v =
      conv_out.at(2 * keys, {dims.tokens, dims.v_heads, dims.v_dim}, {channels, dims.v_dim, 1});
  args.log_decay = log_decay;
  args.beta = beta;
  args.scale = 1.0f / std::sqrt(static_cast<float>(dims.k_dim));
  return args;
}

}  // namespace hybridattn::ops
