#include "hybridattn/ops/causal_conv_verify.h"

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/causal_conv_check.h"
#include "src/ops/causal_conv_verify_params.h"
#include "src/ops/checkpoints.h"
#include "src/ops/place_rows.h"
#include "src/ops/verify_check.h"

namespace hybridattn {

Status causal_conv_verify(Context& context, const CausalConvVerifyArgs& args) {
  ops::CausalConvVerifyParams params{};
  HYBRIDATTN_TRY(ops::check_causal_conv("causal_conv_verify", args.conv, params.conv));
  HYBRIDATTN_TRY(ops::refuse_checkpoints("causal_conv_verify", args.conv.checkpoints));
  core::ArgCheck check("causal_conv_verify");
  check.input("state", args.conv.state, {"slots", "C", "W-1"});
  check.output("kept", args.kept, {"kept slots", "C", "W-1"});
  HYBRIDATTN_TRY(ops::check_kept(check, args.conv.state, args.kept, args.conv.rows, args.verify));
  params.verify = args.verify;
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.conv.rows, tables));
  HYBRIDATTN_TRY(
      ops::place_verify_rows(context, params.conv.rows, args.conv.x.dim(0), params.verify));
  params.kept = args.kept;
  return core::launch(context, "causal_conv_verify", params);
}

}  // namespace hybridattn
