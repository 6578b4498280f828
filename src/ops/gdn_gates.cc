#include "hybridattn/ops/gdn_gates.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/gdn_gates_params.h"

namespace hybridattn {

Status gdn_gates(Context& context, const GdnGatesArgs& args) {
  core::ArgCheck check("gdn_gates");
  const bool by_channel = args.a.rank == 3;
  if (by_channel) {
    check.input("a", args.a, {"T", "HV", "K"}).input("dt_bias", args.dt_bias, {"HV", "K"});
    check.output("log_decay", args.log_decay, {"T", "HV", "K"}, core::Dtypes::kF32);
  } else {
    check.input("a", args.a, {"T", "HV"}).input("dt_bias", args.dt_bias, {"HV"});
    check.output("log_decay", args.log_decay, {"T", "HV"}, core::Dtypes::kF32);
  }
  check.input("b", args.b, {"T", "HV"}).input("a_log", args.a_log, {"HV"});
  check.output("beta", args.beta, {"T", "HV"}, core::Dtypes::kF32);
  if (!check.ok()) return check.status();
  const ops::GdnGatesParams params{args.a,         args.b,    args.a_log,           args.dt_bias,
                                   args.log_decay, args.beta, args.allow_neg_eigval};
  // One row of each operand.
  const std::int64_t row = by_channel ? check["K"] : 1;
  const auto scratch = static_cast<std::size_t>(2 * check["HV"] + 2 * row) * sizeof(float);
  return core::launch(context, "gdn_gates", params, scratch);
}

}  // namespace hybridattn
