#include "src/ops/gdn_intermediates.h"

#include <cmath>

namespace hybridattn::ops {

namespace {

/// Takes tensors off a block one after the other, each at a cache line; without a block only
/// counts.
class Cut {
 public:
  explicit Cut(std::byte* block) : block_(block) {}
  template <class... Dims>
  TensorView take(DType dtype, Dims... dims) {
    const TensorView view(block_ != nullptr ? block_ + used_ : nullptr, dtype, {dims...});
    const auto bytes = static_cast<std::size_t>(view.num_elements()) * dtype_size(dtype);
    used_ += (bytes + 63) / 64 * 64;
    return view;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

}  // namespace

std::size_t GdnIntermediates::bytes(const GdnDims& d) noexcept {
  return GdnIntermediates(nullptr, d).bytes_;
}

GdnIntermediates::GdnIntermediates(std::byte* block, const GdnDims& d) : dims(d) {
  Cut cut(block);
  conv_out = cut.take(d.conv_dtype, d.tokens, d.conv_channels());
  log_decay = d.channel_decay ? cut.take(DType::kF32, d.tokens, d.v_heads, d.k_dim)
                              : cut.take(DType::kF32, d.tokens, d.v_heads);
  beta = cut.take(DType::kF32, d.tokens, d.v_heads);
  core_out = cut.take(d.core_dtype, d.tokens, d.v_heads, d.v_dim);
  bytes_ = cut.used();
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
