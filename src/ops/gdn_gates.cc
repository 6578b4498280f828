#include "hybridattn/ops/gdn_gates.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/gdn_gates_params.h"

namespace hybridattn {

Status gdn_gates(Context& context, const GdnGatesArgs& args) {
  core::ArgCheck check("gdn_gates");
  check.input("a", args.a, {"T", "HV"}).input("b", args.b, {"T", "HV"});
  check.input("a_log", args.a_log, {"HV"}).input("dt_bias", args.dt_bias, {"HV"});
  check.output("log_decay", args.log_decay, {"T", "HV"}, core::Dtypes::kF32);
  check.output("beta", args.beta, {"T", "HV"}, core::Dtypes::kF32);
  if (!check.ok()) return check.status();
  const ops::GdnGatesParams params{args.a,         args.b,    args.a_log,           args.dt_bias,
                                   args.log_decay, args.beta, args.allow_neg_eigval};
  const auto scratch = static_cast<std::size_t>(4 * check["HV"]) * sizeof(float);
  return core::launch(context, "gdn_gates", params, scratch);
}

}  // namespace hybridattn
