// What a gdn_gates kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/gdn_gates.h"

namespace hybridattn::ops {

struct GdnGatesParams {
  ConstTensorView a;        // [tokens, heads] or [tokens, heads, channels]
  ConstTensorView b;        // [tokens, heads]
  ConstTensorView a_log;    // [heads]
  ConstTensorView dt_bias;  // [heads] or [heads, channels]
  TensorView log_decay;     // as a, f32
  TensorView beta;          // [tokens, heads] f32
  bool allow_neg_eigval;
};

}  // namespace hybridattn::ops
