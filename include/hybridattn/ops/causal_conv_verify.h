// The causal convolution for drafted tokens: every window kept.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/causal_conv.h"
#include "hybridattn/ops/verify_rows.h"

namespace hybridattn {

struct CausalConvVerifyArgs {
  CausalConvArgs conv;  ///< `state` is only read
  VerifyRows verify;
  TensorView kept{};  ///< [kept slots, C, W-1], the dtype of `state`
};

/// `causal_conv` for one token at a time, each from the window of the token that it follows. The
/// new window goes to the token's kept slot, the pool of states stays as it is. Errors: as
/// gdn_verify.
HYBRIDATTN_API Status causal_conv_verify(Context& context, const CausalConvVerifyArgs& args);

}  // namespace hybridattn
