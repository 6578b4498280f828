// What a l2norm kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/l2norm.h"

namespace hybridattn::ops {

struct L2NormParams {
  ConstTensorView x;  // [tokens, heads, dim]
  TensorView out;     // [tokens, heads, dim]
  float scale;
};

}  // namespace hybridattn::ops
