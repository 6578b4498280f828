// What a causal_conv kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/causal_conv.h"
#include "src/ops/checkpoints_params.h"

namespace hybridattn::ops {

struct CausalConvParams {
  RaggedRows rows;
  ConstTensorView x;       // [tokens, channels]
  ConstTensorView weight;  // [channels, width]
  TensorView state;        // [slots, channels, width - 1]
  TensorView out;          // [tokens, channels]
  bool silu;
  PlacedCheckpoints checkpoints;
};

}  // namespace hybridattn::ops
