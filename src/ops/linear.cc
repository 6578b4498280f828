#include "hybridattn/ops/linear.h"

#include <algorithm>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/core/kernel.h"
#include "src/ops/linear_gate.h"
#include "src/ops/linear_params.h"

namespace hybridattn {

Status linear(Context& context, const LinearArgs& args) {
  core::ArgCheck check("linear");
  check.input("x", args.x, {"M", "K"}).input("weight", args.weight, {"N", "K"});
  check.output("out", args.out, {"M", "N"});
  check.distinct("out", args.out, "x", args.x).distinct("out", args.out, "weight", args.weight);
  ops::check_gate(check, args.gate, args.out);
  if (!check.ok()) return check.status();
  ops::LinearParams params{args.x, args.weight, args.out, args.accumulate, args.gate, nullptr};
  if (args.weight.dtype == DType::kBF16) {
    const std::size_t packed =
        linear_shared_workspace_bytes(context, args.x.dtype, args.x.dim(0), args.x.dim(1));
    if (packed > 0) {
      HYBRIDATTN_ASSIGN(std::byte* const block, core::shared_workspace(context, packed));
      params.packed_x = reinterpret_cast<std::uint32_t*>(block);
    }
  }
  return core::launch(context, "linear", params, linear_workspace_bytes());
}

std::size_t linear_workspace_bytes() noexcept {
  return std::max(ops::kLinearScratchBytes, ops::kLinearTileScratchBytes);
}

std::size_t linear_shared_workspace_bytes(const Context& context, DType dtype, std::int64_t rows,
                                          std::int64_t inner) noexcept {
  const bool tiles = context.device() == DeviceType::kCpu && context.isa() == Isa::kAmx;
  return tiles && dtype == DType::kBF16 ? ops::linear_packed_bytes(rows, inner) : 0;
}

}  // namespace hybridattn
