#include "hybridattn/ops/gdn_prefill.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_prefill_params.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

Status gdn_prefill(Context& context, const GdnArgs& args) {
  ops::GdnPrefillParams params{};
  HYBRIDATTN_TRY(
      ops::check_gdn("gdn_prefill", args, std::numeric_limits<std::int32_t>::max(), params));
  params.whole_rows = context.batch_invariant();
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.rows, tables));
  return core::launch(
      context, "gdn_prefill", params,
      ops::gdn_prefill_workspace(params.k.dim(2), params.v.dim(2), params.channel_decay()));
}

}  // namespace hybridattn
