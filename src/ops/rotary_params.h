// What a rotary kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/rotary.h"

namespace hybridattn::ops {

struct RotaryParams {
  ConstTensorView x;    // [tokens, heads, dim]
  ConstTensorView cos;  // [tokens, rotary_dim / 2] f32
  ConstTensorView sin;  // [tokens, rotary_dim / 2] f32
  TensorView out;       // [tokens, heads, dim]
};

struct RotaryTableParams {
  const std::int64_t* positions;  // [tokens]
  double theta;
  int rotary_dim;
  TensorView cos;  // [tokens, rotary_dim / 2] f32
  TensorView sin;  // [tokens, rotary_dim / 2] f32
};

}  // namespace hybridattn::ops
