// What a sigmoid_gate kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/sigmoid_gate.h"

namespace hybridattn::ops {

struct SigmoidGateParams {
  ConstTensorView x;        // [tokens, heads, dim]
  ConstTensorView gate;     // [tokens, heads, dim]
  TensorView out;           // [tokens, heads, dim]
  const std::uint8_t* pad;  // optional [tokens]
};

}  // namespace hybridattn::ops
