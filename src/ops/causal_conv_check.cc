#include "src/ops/causal_conv_check.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/ops/ragged_check.h"

namespace hybridattn::ops {

Status check_causal_conv(const char* op, const CausalConvArgs& args, CausalConvParams& params) {
  core::ArgCheck check(op);
  check.input("x", args.x, {"T", "C"}).input("weight", args.weight, {"C", "W"});
  check.output("state", args.state, {"slots", "C", "W-1"}).output("out", args.out, {"T", "C"});
  if (!check.ok()) return check.status();
  check.require_supported(check["W"] >= 2 && check["W"] <= 4, "weight has W = ", check["W"],
                          " (dim 1), must be 2 to 4");
  check.require(check["W-1"] == check["W"] - 1, "state has W-1 = ", check["W-1"],
                " (dim 2), must be ", check["W"] - 1, " for W = ", check["W"], " of weight");
  check.distinct("out", args.out, "x", args.x);
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(check_ragged_rows(op, args.rows, check["T"], check["slots"],
                                   std::numeric_limits<std::int32_t>::max()));
  params = CausalConvParams{args.rows, args.x, args.weight, args.state, args.out, args.silu, {}};
  return {};
}

}  // namespace hybridattn::ops
