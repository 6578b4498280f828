// What a rms_norm kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/rms_norm.h"

namespace hybridattn::ops {

struct RmsNormParams {
  ConstTensorView x;       // [tokens, heads, dim]
  ConstTensorView weight;  // [dim]
  TensorView out;          // [tokens, heads, dim]
  float epsilon;
  bool zero_centered;
};

}  // namespace hybridattn::ops
