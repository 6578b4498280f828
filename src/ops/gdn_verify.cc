#include "hybridattn/ops/gdn_verify.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_verify_params.h"
#include "src/ops/verify_check.h"

namespace hybridattn {

Status gdn_verify(Context& context, const GdnVerifyArgs& args) {
  ops::GdnVerifyParams params{};
  HYBRIDATTN_TRY(
      ops::check_gdn("gdn_verify", args.gdn, std::numeric_limits<std::int32_t>::max(), params.gdn));
  core::ArgCheck check("gdn_verify");
  check.input("state", args.gdn.state, {"slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  check.output("kept", args.kept, {"kept slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  check.require(args.kept.dtype == args.gdn.state.dtype, "kept has dtype ",
                dtype_name(args.kept.dtype),
                ", must be that of state: ", dtype_name(args.gdn.state.dtype));
  check.distinct("kept", args.kept, "state", args.gdn.state);
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(
      ops::check_verify_rows("gdn_verify", args.gdn.rows, args.verify, check["kept slots"]));
  params.verify = args.verify;
  params.kept = args.kept;
  const std::int64_t floats = 3 * params.gdn.k.dim(2) + 2 * params.gdn.v.dim(2);
  return core::launch(context, "gdn_verify", params,
                      static_cast<std::size_t>(floats) * sizeof(float));
}

}  // namespace hybridattn
