// RMSNorm with an output gate: the norm after the delta rule.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// What the gate does to z before it multiplies.
enum class GateKind : std::uint8_t { kSilu, kSigmoid };

struct GatedRmsNormArgs {
  ConstTensorView x{};       ///< [T, H, D] f32, bf16 or f16
  ConstTensorView z{};       ///< [T, H, D]
  ConstTensorView weight{};  ///< [D], plain (not 1 + w), shared by the heads
  TensorView out{};          ///< [T, H, D]; may be x itself
  float epsilon = 1e-6f;
  GateKind gate = GateKind::kSilu;
  /// Optional [T]: a token with a value other than 0 is padding. Nothing of it is read, its output
  /// is 0. In the memory of the context's device, as the tensors.
  const std::uint8_t* pad = nullptr;
};

/// out = x * rsqrt(mean(x^2) + epsilon) * weight * gate(z): norm before gate, float32 inside.
/// Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status gated_rms_norm(Context& context, const GatedRmsNormArgs& args);

}  // namespace hybridattn
