#include "hybridattn/ops/causal_conv.h"

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/causal_conv_check.h"

namespace hybridattn {

Status causal_conv(Context& context, const CausalConvArgs& args) {
  ops::CausalConvParams params{};
  HYBRIDATTN_TRY(ops::check_causal_conv("causal_conv", args, params));
  return core::launch(context, "causal_conv", params);
}

}  // namespace hybridattn
