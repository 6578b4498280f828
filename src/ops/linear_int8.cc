#include "hybridattn/ops/linear_int8.h"

#include "hybridattn/ops/linear.h"
#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/core/kernel.h"
#include "src/ops/linear_gate.h"
#include "src/ops/linear_int8_tile_params.h"

namespace hybridattn {

Status linear_int8(Context& context, const LinearInt8Args& args) {
  core::ArgCheck check("linear_int8");
  check.input("x", args.x, {"M", "K"})
      .input("weight", args.weight, {"N", "K"}, core::Dtypes::kI8)
      .input("weight_scale", args.weight_scale, {"N"}, core::Dtypes::kF32);
  check.output("out", args.out, {"M", "N"});
  check.distinct("out", args.out, "x", args.x);
  check.require_supported(check["K"] <= ops::kLinearInt8Inner, "x has K = ", check["K"],
                          ", must be at most ", ops::kLinearInt8Inner);
  ops::check_gate(check, args.gate, args.out);
  if (!check.ok()) return check.status();
  HYBRIDATTN_ASSIGN(std::byte* const quantized,
                    core::shared_workspace(
                        context, linear_int8_shared_workspace_bytes(args.x.dim(0), args.x.dim(1))));
  const ops::LinearInt8Params params{args.x,          args.weight, args.weight_scale, args.out,
                                     args.accumulate, args.gate,   quantized};
  return core::launch(context, "linear_int8", params, linear_int8_workspace_bytes());
}

std::size_t linear_int8_workspace_bytes() noexcept { return ops::kLinearWorkerBytes; }

std::size_t linear_int8_shared_workspace_bytes(std::int64_t rows, std::int64_t inner) noexcept {
  return isa_supported(Isa::kAmx) ? ops::linear_int8_tile_bytes(rows, inner)
                                  : ops::linear_int8_quantized_bytes(rows, inner);
}

}  // namespace hybridattn
