#include "hybridattn/ops/gdn_prefill.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/checkpoints.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_prefill_params.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

Status gdn_prefill(Context& context, const GdnArgs& args) {
  ops::GdnPrefillParams params{};
  HYBRIDATTN_TRY(
      ops::check_gdn("gdn_prefill", args, std::numeric_limits<std::int32_t>::max(), params));
  params.whole_rows = context.batch_invariant();
  HYBRIDATTN_TRY(
      ops::check_checkpoints("gdn_prefill", params.rows, args.checkpoints, params.state.dim(0)));
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.rows, tables));
  HYBRIDATTN_ASSIGN(params.checkpoints,
                    ops::place_checkpoints(context, params.rows, args.checkpoints));
  const std::int64_t k_dim = params.k.dim(2), v_dim = params.v.dim(2);
  std::size_t scratch = ops::gdn_prefill_workspace(k_dim, v_dim, params.channel_decay());
  if (args.checkpoints.count > 0) scratch += ops::gdn_checkpoint_scratch(k_dim, v_dim);
  return core::launch(context, "gdn_prefill", params, scratch);
}

}  // namespace hybridattn
