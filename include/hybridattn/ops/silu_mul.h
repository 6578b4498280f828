// The gate of a SwiGLU feed-forward network.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct SiluMulArgs {
  ConstTensorView gate{};  ///< [T, F] f32, bf16 or f16
  ConstTensorView up{};    ///< [T, F]
  TensorView out{};        ///< [T, F]; may be gate or up itself
};

/// out = gate * sigmoid(gate) * up, float32 inside. Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status silu_mul(Context& context, const SiluMulArgs& args);

}  // namespace hybridattn
