// What a gated_rms_norm kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/gated_rms_norm.h"

namespace hybridattn::ops {

struct GatedRmsNormParams {
  ConstTensorView x;       // [tokens, heads, dim]
  ConstTensorView z;       // [tokens, heads, dim]
  ConstTensorView weight;  // [dim]
  TensorView out;          // [tokens, heads, dim]
  float epsilon;
  GateKind gate;
  const std::uint8_t* pad;  // optional [tokens] of NormToken
};

}  // namespace hybridattn::ops
