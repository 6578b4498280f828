#include "hybridattn/ops/sigmoid_gate.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/sigmoid_gate_params.h"

namespace hybridattn {

Status sigmoid_gate(Context& context, const SigmoidGateArgs& args) {
  core::ArgCheck check("sigmoid_gate");
  check.input("x", args.x, {"T", "H", "D"}).input("gate", args.gate, {"T", "H", "D"});
  check.output("out", args.out, {"T", "H", "D"});
  if (!check.ok()) return check.status();
  const ops::SigmoidGateParams params{args.x, args.gate, args.out, args.pad};
  const auto scratch = static_cast<std::size_t>(3 * check["D"]) * sizeof(float);
  return core::launch(context, "sigmoid_gate", params, scratch);
}

}  // namespace hybridattn
