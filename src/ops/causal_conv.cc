#include "hybridattn/ops/causal_conv.h"

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/causal_conv_check.h"
#include "src/ops/checkpoints.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

Status causal_conv(Context& context, const CausalConvArgs& args) {
  ops::CausalConvParams params{};
  HYBRIDATTN_TRY(ops::check_causal_conv("causal_conv", args, params));
  HYBRIDATTN_TRY(
      ops::check_checkpoints("causal_conv", params.rows, args.checkpoints, params.state.dim(0)));
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.rows, tables));
  HYBRIDATTN_ASSIGN(params.checkpoints,
                    ops::place_checkpoints(context, params.rows, args.checkpoints));
  return core::launch(context, "causal_conv", params);
}

}  // namespace hybridattn
