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
  // Three positions a token: both are null or neither is.
  const std::int64_t* height;  // [tokens]
  const std::int64_t* width;   // [tokens]
  int height_section;
  int width_section;
};

}  // namespace hybridattn::ops
