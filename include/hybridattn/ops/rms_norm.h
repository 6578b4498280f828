// RMSNorm, plain or zero-centred.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct RmsNormArgs {
  ConstTensorView x{};       ///< [T, D] or [T, H, D] f32, bf16 or f16
  ConstTensorView weight{};  ///< [D]
  TensorView out{};          ///< as x; may be x itself
  float epsilon = 1e-6f;
  bool zero_centered = true;  ///< multiply by 1 + weight (Gemma, Qwen3-Next, Qwen3.5)
};

/// out = x * rsqrt(mean(x^2) + epsilon) * (weight or 1 + weight) over D, float32 inside.
/// Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status rms_norm(Context& context, const RmsNormArgs& args);

}  // namespace hybridattn
