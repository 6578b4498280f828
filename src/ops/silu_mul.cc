#include "hybridattn/ops/silu_mul.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/silu_mul_params.h"

namespace hybridattn {

Status silu_mul(Context& context, const SiluMulArgs& args) {
  core::ArgCheck check("silu_mul");
  check.input("gate", args.gate, {"T", "F"}).input("up", args.up, {"T", "F"});
  check.output("out", args.out, {"T", "F"});
  if (!check.ok()) return check.status();
  const ops::SiluMulParams params{args.gate, args.up, args.out};
  const auto scratch = static_cast<std::size_t>(3 * check["F"]) * sizeof(float);
  return core::launch(context, "silu_mul", params, scratch);
}

}  // namespace hybridattn
