#include "hybridattn/ops/causal_conv.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/causal_conv_params.h"
#include "src/ops/ragged_check.h"

namespace hybridattn {

Status causal_conv(Context& context, const CausalConvArgs& args) {
  core::ArgCheck check("causal_conv");
  check.input("x", args.x, {"T", "C"}).input("weight", args.weight, {"C", "W"});
  check.output("state", args.state, {"slots", "C", "W-1"}).output("out", args.out, {"T", "C"});
  if (!check.ok()) return check.status();
  check.require_supported(check["W"] >= 2 && check["W"] <= 4, "weight has W = ", check["W"],
                          " (dim 1), must be 2 to 4");
  check.require(check["W-1"] == check["W"] - 1, "state has W-1 = ", check["W-1"],
                " (dim 2), must be ", check["W"] - 1, " for W = ", check["W"], " of weight");
  check.distinct("out", args.out, "x", args.x);
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(ops::check_ragged_rows("causal_conv", args.rows, check["T"], check["slots"],
                                        std::numeric_limits<std::int32_t>::max()));
  const ops::CausalConvParams params{args.rows,  args.x,   args.weight,
                                     args.state, args.out, args.silu};
  return core::launch(context, "causal_conv", params);
}

}  // namespace hybridattn
