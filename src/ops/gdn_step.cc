#include "hybridattn/ops/gdn_step.h"

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/checkpoints.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_step_params.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

Status gdn_step(Context& context, const GdnArgs& args) {
  ops::GdnStepParams params{};
  HYBRIDATTN_TRY(ops::check_gdn("gdn_step", args, 1, params));
  HYBRIDATTN_TRY(ops::refuse_checkpoints("gdn_step", args.checkpoints));
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.rows, tables));
  const std::int64_t floats = ops::gdn_step_scratch(params);
  return core::launch(context, "gdn_step", params,
                      static_cast<std::size_t>(floats) * sizeof(float));
}

}  // namespace hybridattn
