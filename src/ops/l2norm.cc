#include "hybridattn/ops/l2norm.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/l2norm_params.h"

namespace hybridattn {

Status l2norm(Context& context, const L2NormArgs& args) {
  core::ArgCheck check("l2norm");
  check.input("x", args.x, {"T", "H", "D"}).output("out", args.out, {"T", "H", "D"});
  if (!check.ok()) return check.status();
  const ops::L2NormParams params{args.x, args.out, args.scale};
  const auto scratch = static_cast<std::size_t>(2 * check["D"]) * sizeof(float);
  return core::launch(context, "l2norm", params, scratch);
}

}  // namespace hybridattn
