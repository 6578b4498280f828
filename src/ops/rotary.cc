#include "hybridattn/ops/rotary.h"

#include <cmath>

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/rotary_params.h"

namespace hybridattn {

Status rotary(Context& context, const RotaryArgs& args) {
  core::ArgCheck check("rotary");
  check.input("x", args.x, {"T", "H", "D"});
  check.input("cos", args.cos, {"T", "R/2"}, core::Dtypes::kF32);
  check.input("sin", args.sin, {"T", "R/2"}, core::Dtypes::kF32);
  check.output("out", args.out, {"T", "H", "D"});
  if (!check.ok()) return check.status();
  check.require(2 * check["R/2"] <= check["D"], "cos has R/2 = ", check["R/2"],
                " (dim 1), must be at most D/2 with D = ", check["D"], " of x");
  if (!check.ok()) return check.status();
  const ops::RotaryParams params{args.x, args.cos, args.sin, args.out};
  const auto scratch = static_cast<std::size_t>(2 * check["D"]) * sizeof(float);
  return core::launch(context, "rotary", params, scratch);
}

Status rotary_table(Context& context, const RotaryTableArgs& args) {
  core::ArgCheck check("rotary_table");
  check.output("cos", args.cos, {"T", "R/2"}, core::Dtypes::kF32);
  check.output("sin", args.sin, {"T", "R/2"}, core::Dtypes::kF32);
  if (!check.ok()) return check.status();
  check.array("positions", args.positions, check["T"]);
  check.require(
      args.rotary_dim >= 0 && args.rotary_dim % 2 == 0 && args.rotary_dim / 2 == check["R/2"],
      "rotary_dim is ", args.rotary_dim, ", must be 2 * ", check["R/2"], " (dim 1 of cos)");
  check.require(std::isfinite(args.theta) && args.theta > 0, "theta is ", args.theta,
                ", must be finite and positive");
  if (!check.ok()) return check.status();
  for (std::int64_t t = 0; t < check["T"]; ++t) {
    check.require(args.positions[t] >= 0, "positions[", t, "] is ", args.positions[t],
                  ", must be at least 0");
  }
  if (!check.ok()) return check.status();
  const ops::RotaryTableParams params{args.positions, args.theta, args.rotary_dim, args.cos,
                                      args.sin};
  return core::launch(context, "rotary_table", params);
}

}  // namespace hybridattn
