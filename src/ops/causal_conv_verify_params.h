// What a causal_conv_verify kernel takes.
#pragma once

#include "hybridattn/ops/verify_rows.h"
#include "src/ops/causal_conv_params.h"

namespace hybridattn::ops {

struct CausalConvVerifyParams {
  CausalConvParams conv;
  VerifyRows verify;
  TensorView kept;  // [kept slots, channels, width - 1]
};

}  // namespace hybridattn::ops
