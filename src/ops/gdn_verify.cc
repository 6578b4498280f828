#include "hybridattn/ops/gdn_verify.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/checkpoints.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_verify_params.h"
#include "src/ops/place_rows.h"
#include "src/ops/verify_check.h"

namespace hybridattn {

Status gdn_verify(Context& context, const GdnVerifyArgs& args) {
  ops::GdnVerifyParams params{};
  HYBRIDATTN_TRY(
      ops::check_gdn("gdn_verify", args.gdn, std::numeric_limits<std::int32_t>::max(), params.gdn));
  HYBRIDATTN_TRY(ops::refuse_checkpoints("gdn_verify", args.gdn.checkpoints));
  core::ArgCheck check("gdn_verify");
  check.input("state", args.gdn.state, {"slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  check.output("kept", args.kept, {"kept slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  HYBRIDATTN_TRY(ops::check_kept(check, args.gdn.state, args.kept, args.gdn.rows, args.verify));
  params.verify = args.verify;
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.gdn.rows, tables));
  HYBRIDATTN_TRY(
      ops::place_verify_rows(context, params.gdn.rows, args.gdn.q.dim(0), params.verify));
  params.kept = args.kept;
  const std::int64_t floats = ops::gdn_step_scratch(params.gdn);
  return core::launch(context, "gdn_verify", params,
                      static_cast<std::size_t>(floats) * sizeof(float));
}

}  // namespace hybridattn
