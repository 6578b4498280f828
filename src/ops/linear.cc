#include "hybridattn/ops/linear.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/linear_params.h"

namespace hybridattn {

Status linear(Context& context, const LinearArgs& args) {
  core::ArgCheck check("linear");
  check.input("x", args.x, {"M", "K"}).input("weight", args.weight, {"N", "K"});
  check.output("out", args.out, {"M", "N"});
  check.distinct("out", args.out, "x", args.x).distinct("out", args.out, "weight", args.weight);
  if (!check.ok()) return check.status();
  const ops::LinearParams params{args.x, args.weight, args.out, args.accumulate};
  return core::launch(context, "linear", params, linear_workspace_bytes());
}

std::size_t linear_workspace_bytes() noexcept { return ops::kLinearScratchBytes; }

}  // namespace hybridattn
