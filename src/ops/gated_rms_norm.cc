#include "hybridattn/ops/gated_rms_norm.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/gated_rms_norm_params.h"

namespace hybridattn {

Status gated_rms_norm(Context& context, const GatedRmsNormArgs& args) {
  core::ArgCheck check("gated_rms_norm");
  check.input("x", args.x, {"T", "H", "D"}).input("z", args.z, {"T", "H", "D"});
  check.input("weight", args.weight, {"D"}).output("out", args.out, {"T", "H", "D"});
  check.require(args.epsilon >= 0, "epsilon is ", args.epsilon, ", must be at least 0");
  check.require(args.gate == GateKind::kSilu || args.gate == GateKind::kSigmoid, "gate is ",
                static_cast<int>(args.gate), ", must be kSilu or kSigmoid");
  if (!check.ok()) return check.status();
  const ops::GatedRmsNormParams params{args.x,       args.z,    args.weight, args.out,
                                       args.epsilon, args.gate, args.pad};
  const auto scratch = static_cast<std::size_t>(4 * check["D"]) * sizeof(float);
  return core::launch(context, "gated_rms_norm", params, scratch);
}

}  // namespace hybridattn
