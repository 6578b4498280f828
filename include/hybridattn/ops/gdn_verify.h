// The gated delta rule for drafted tokens: the arithmetic of decode, every state kept.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/gdn_args.h"
#include "hybridattn/ops/verify_rows.h"

namespace hybridattn {

struct GdnVerifyArgs {
  GdnArgs gdn;  ///< `state` is only read
  VerifyRows verify;
  TensorView kept{};  ///< [kept slots, HV, V, K], the dtype of `state`
};

/// For each token the step of `gdn_step` from the state of the token that it follows. The result
/// goes to the token's kept slot, the pool of states stays as it is. Copying a kept state over the
/// row's gives the bits that decoding the tokens up to it would have given. Errors:
/// invalid_argument, out_of_range (a parent that is not earlier, a kept slot outside), unsupported;
/// nothing is written on an error.
HYBRIDATTN_API Status gdn_verify(Context& context, const GdnVerifyArgs& args);

}  // namespace hybridattn
