// RMSNorm with an output gate: the norm after the delta rule.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// What the gate does to z before it multiplies.
enum class GateKind : std::uint8_t { kSilu, kSigmoid };

/// What GatedRmsNormArgs::pad says of a token.
enum NormToken : std::uint8_t {
  kNormed = 0,
  kPadded = 1,   ///< nothing of it is read, its output is 0
  kLeftOut = 2,  ///< neither read nor written: another call's
};

struct GatedRmsNormArgs {
  ConstTensorView x{};       ///< [T, H, D] f32, bf16 or f16
  ConstTensorView z{};       ///< [T, H, D]
  ConstTensorView weight{};  ///< [D], plain (not 1 + w), shared by the heads
  TensorView out{};          ///< [T, H, D]; may be x itself
  float epsilon = 1e-6f;
  GateKind gate = GateKind::kSilu;
  /// Optional [T] of NormToken, in the memory of the context's device, as the tensors. Without it
  /// every token is normed.
  const std::uint8_t* pad = nullptr;
};

/// out = x * rsqrt(mean(x^2) + epsilon) * weight * gate(z): norm before gate, float32 inside.
/// Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status gated_rms_norm(Context& context, const GatedRmsNormArgs& args);

}  // namespace hybridattn
