// The tensors between the ops of a Gated DeltaNet layer: float32 but for the convolution's output,
// which the delta rule may want in the type of its products, and for its own, which kernels may
// give in that type alone.
#pragma once

#include <cstddef>

#include "hybridattn/ops/gdn_args.h"

namespace hybridattn::ops {

struct GdnDims {
  std::int64_t tokens, k_heads, v_heads, k_dim, v_dim;
  bool channel_decay;
  DType conv_dtype = DType::kF32;
  DType core_dtype = DType::kF32;

  std::int64_t key_channels() const noexcept { return k_heads * k_dim; }
  std::int64_t conv_channels() const noexcept { return 2 * key_channels() + v_heads * v_dim; }
  /// Log decays of one token.
  std::int64_t decays() const noexcept { return v_heads * (channel_decay ? k_dim : 1); }
};

struct GdnIntermediates {
  /// Cuts a block of `bytes(dims)`.
  GdnIntermediates(std::byte* block, const GdnDims& dims);
  static std::size_t bytes(const GdnDims& dims) noexcept;

  /// The delta rule over the convolution's output, with scale K^-1/2; rows, state and out are left
  /// to the caller.
  GdnArgs delta_rule() const;

  GdnDims dims;
  TensorView conv_out;   // [T, C]
  TensorView log_decay;  // [T, HV] or [T, HV, K]
  TensorView beta;       // [T, HV]
  TensorView core_out;   // [T, HV, V]

 private:
  std::size_t bytes_ = 0;
};

}  // namespace hybridattn::ops
