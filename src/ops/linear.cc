#include "hybridattn/ops/linear.h"

#include "hybridattn/ops/rms_norm.h"
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
  if (args.norm_weight.empty() || !check.ok()) return check.status();
  check.input("norm_weight", args.norm_weight, {"K"});
  check.require(args.norm_epsilon >= 0, "norm_epsilon is ", args.norm_epsilon,
                ", must be at least 0");
  check.require(args.x.dtype == DType::kF32 || args.x.dtype == args.weight.dtype, "x is ",
                dtype_name(args.x.dtype), " and weight ", dtype_name(args.weight.dtype),
                ", with a norm x must be f32 or of that type");
  return check.status();
}

/// `kept`: bytes of the shared workspace that hold what `args` reads.
Status run_product(Context& context, const LinearArgs& args, std::size_t kept) {
  ops::LinearParams params{args.x, args.weight, args.out, args.accumulate, args.gate, nullptr};
  if (args.weight.dtype == DType::kBF16) {
    const std::size_t packed =
        linear_shared_workspace_bytes(context, args.x.dtype, args.x.dim(0), args.x.dim(1));
    if (packed > 0) {
      HYBRIDATTN_ASSIGN(std::byte* const block, core::shared_workspace(context, kept + packed));
      params.packed_x = reinterpret_cast<std::uint32_t*>(block + kept);
    }
  }
  return core::launch(context, "linear", params, linear_workspace_bytes(context));
}

Status run_gated(Context& context, const LinearArgs& args, std::size_t kept) {
  if (args.gate_weight.empty()) return run_product(context, args, kept);
  // The gate takes the place of the output until the output does.
  HYBRIDATTN_TRY(run_product(context, {args.x, args.gate_weight, args.out, false, {}, {}}, kept));
  return run_product(context, {args.x, args.weight, args.out, false, args.out, {}}, kept);
}

Status run_on_cpu(Context& context, const LinearArgs& args) {
  if (args.accumulate && !args.gate_weight.empty()) {
    return error(StatusCode::kUnsupported,
                 "linear: accumulate is true with gate_weight, must be false on the CPU");
  }
  if (args.norm_weight.empty()) return run_gated(context, args, 0);
  const std::int64_t rows = args.x.dim(0), inner = args.x.dim(1);
  const DType dtype = args.weight.dtype;
  const std::size_t normed =
      core::round_to_alignment(static_cast<std::size_t>(rows * inner) * dtype_size(dtype));
  const std::size_t packed = linear_shared_workspace_bytes(context, dtype, rows, inner);
  HYBRIDATTN_ASSIGN(std::byte* const block, core::shared_workspace(context, normed + packed));
  const TensorView x(block, dtype, {rows, inner});
  HYBRIDATTN_TRY(rms_norm(context, {args.x, args.norm_weight, x, args.norm_epsilon, true}));
  LinearArgs product = args;
  product.x = x;
  return run_gated(context, product, normed);
}

}  // namespace

Status linear(Context& context, const LinearArgs& args) {
  HYBRIDATTN_TRY(check_linear(args));
  if (context.device() == DeviceType::kCuda) {
    return core::launch(context, "linear",
                        ops::LinearParams{args.x, args.weight, args.out, args.accumulate, args.gate,
                                          nullptr, args.gate_weight, context.batch_invariant(),
                                          args.norm_weight, args.norm_epsilon});
  }
  return run_on_cpu(context, args);
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
