// The output gate of full attention.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct SigmoidGateArgs {
  ConstTensorView x{};     ///< [T, H, D] f32, bf16 or f16
  ConstTensorView gate{};  ///< [T, H, D], e.g. the gate half of a double-width q projection
  TensorView out{};        ///< [T, H, D]; may be x itself
  /// Optional [T]: a token with a value other than 0 is padding. Nothing of it is read, its output
  /// is 0. In the memory of the context's device, as the tensors.
  const std::uint8_t* pad = nullptr;
};

/// out = x * sigmoid(gate), float32 inside. Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status sigmoid_gate(Context& context, const SigmoidGateArgs& args);

}  // namespace hybridattn
