#include "hybridattn/ops/rms_norm.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/head_rows.h"
#include "src/ops/rms_norm_params.h"

namespace hybridattn {

Status rms_norm(Context& context, const RmsNormArgs& args) {
  const ConstTensorView x = ops::with_heads(args.x);
  const TensorView out = ops::with_heads(args.out);
  core::ArgCheck check("rms_norm");
  check.input("x", x, {"T", "H", "D"}).input("weight", args.weight, {"D"});
  check.output("out", out, {"T", "H", "D"});
  check.require(args.epsilon >= 0, "epsilon is ", args.epsilon, ", must be at least 0");
  if (!check.ok()) return check.status();
  const ops::RmsNormParams params{x, args.weight, out, args.epsilon, args.zero_centered};
  const auto scratch = static_cast<std::size_t>(3 * check["D"]) * sizeof(float);
  return core::launch(context, "rms_norm", params, scratch);
}

}  // namespace hybridattn
