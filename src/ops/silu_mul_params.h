// What a silu_mul kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/silu_mul.h"

namespace hybridattn::ops {

struct SiluMulParams {
  ConstTensorView gate;  // [tokens, dim]
  ConstTensorView up;    // [tokens, dim]
  TensorView out;        // [tokens, dim]
};

}  // namespace hybridattn::ops
