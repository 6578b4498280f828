#include "hybridattn/ops/linear.h"

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/core/kernel.h"
#include "src/ops/linear_gate.h"
#include "src/ops/linear_params.h"

namespace hybridattn {
namespace {

Status check_linear(const LinearArgs& args) {
  core::ArgCheck check("linear");
  check.input("x", args.x, {"M", "K"}).input("weight", args.weight, {"N", "K"});
  check.output("out", args.out, {"M", "N"});
  check.distinct("out", args.out, "x", args.x).distinct("out", args.out, "weight", args.weight);
  ops::check_gate(check, args.gate, args.out);
  check.optional_input("gate_weight", args.gate_weight, {"N", "K"});
  check.distinct("out", args.out, "gate_weight", args.gate_weight);
  check.require(args.gate.empty() || args.gate_weight.empty(),
                "gate and gate_weight are both given, must be one of them");
  return check.status();
}

Status run_on_cpu(Context& context, const LinearArgs& args) {
  ops::LinearParams params{args.x, args.weight, args.out, args.accumulate, args.gate, nullptr};
  if (args.weight.dtype == DType::kBF16) {
    const std::size_t packed =
        linear_shared_workspace_bytes(context, args.x.dtype, args.x.dim(0), args.x.dim(1));
    if (packed > 0) {
      HYBRIDATTN_ASSIGN(std::byte* const block, core::shared_workspace(context, packed));
      params.packed_x = reinterpret_cast<std::uint32_t*>(block);
    }
  }
  return core::launch(context, "linear", params, linear_workspace_bytes(context));
}

}  // namespace

Status linear(Context& context, const LinearArgs& args) {
  HYBRIDATTN_TRY(check_linear(args));
  if (context.device() == DeviceType::kCuda) {
    return core::launch(context, "linear",
                        ops::LinearParams{args.x, args.weight, args.out, args.accumulate, args.gate,
                                          nullptr, args.gate_weight, context.batch_invariant()});
  }
  if (args.gate_weight.empty()) return run_on_cpu(context, args);
  if (args.accumulate) {
    return error(StatusCode::kUnsupported,
                 "linear: accumulate is true with gate_weight, must be false on the CPU");
  }
  // The gate takes the place of the output until the output does.
  HYBRIDATTN_TRY(run_on_cpu(context, {args.x, args.gate_weight, args.out, false, {}, {}}));
  return run_on_cpu(context, {args.x, args.weight, args.out, false, args.out, {}});
}

std::size_t linear_workspace_bytes(const Context& context) noexcept {
  if (context.device() == DeviceType::kCuda) return ops::kLinearCudaWorkspaceBytes;
  return ops::kLinearWorkerBytes;
}

std::size_t linear_shared_workspace_bytes(const Context& context, DType dtype, std::int64_t rows,
                                          std::int64_t inner) noexcept {
  const bool tiles = context.device() == DeviceType::kCpu && context.isa() == Isa::kAmx;
  return tiles && dtype == DType::kBF16 ? ops::linear_packed_bytes(rows, inner) : 0;
}

}  // namespace hybridattn
