// The check that both convolutions share.
#pragma once

#include "src/ops/causal_conv_params.h"

namespace hybridattn::ops {

/// Checks everything but what is special to verify rows, and fills the parameters.
Status check_causal_conv(const char* op, const CausalConvArgs& args, CausalConvParams& params);

}  // namespace hybridattn::ops
