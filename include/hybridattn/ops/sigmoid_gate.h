// The output gate of full attention.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct SigmoidGateArgs {
  ConstTensorView x{};     ///< [T, H, D] f32, bf16 or f16
  ConstTensorView gate{};  ///< [T, H, D], e.g. the gate half of a double-width q projection
  TensorView out{};        ///< [T, H, D]; may be x itself
};

/// out = x * sigmoid(gate), float32 inside. Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status sigmoid_gate(Context& context, const SigmoidGateArgs& args);

}  // namespace hybridattn
