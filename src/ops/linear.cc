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

void check_norm(core::ArgCheck& check, const LinearArgs& args) {
  check.input("norm_weight", args.norm_weight, {"K"});
  check.require(args.x.dtype == DType::kF32 || args.x.dtype == args.weight.dtype, "x is ",
                dtype_name(args.x.dtype), " and weight ", dtype_name(args.weight.dtype),
                ", with a norm x must be f32 or of that type");
}

void check_next(core::ArgCheck& check, const LinearArgs& args) {
  check.input("next_norm", args.next_norm, {"N"});
  check.output("next_x", args.next_x, {"M", "N"});
  check.output("next_squares", args.next_squares, {"M", "N/8"});
  if (!check.ok()) return;
  check.require(args.out.dim(1) == ops::kLinearSquares * args.next_squares.dim(1),
                "next_squares has ", args.next_squares.dim(1),
                " columns, must have N / 8 of N = ", args.out.dim(1));
  check.require(args.out.dtype == DType::kF32, "out is ", dtype_name(args.out.dtype),
                ", with next_norm it must be f32");
  check.require(args.next_norm.dtype == DType::kF32 && args.next_squares.dtype == DType::kF32,
                "next_norm is ", dtype_name(args.next_norm.dtype), " and next_squares ",
                dtype_name(args.next_squares.dtype), ", both must be f32");
  check.require(args.next_x.dtype == args.weight.dtype, "next_x is ", dtype_name(args.next_x.dtype),
                " and weight ", dtype_name(args.weight.dtype), ", must be of one type");
  check.require(args.gate.empty() && args.gate_weight.empty(),
                "next_norm is given with a gate, must be without");
  for (const auto& [name, view] :
       {std::pair{"next_x", args.next_x}, {"next_squares", args.next_squares}}) {
    check.distinct(name, view, "x", args.x).distinct(name, view, "weight", args.weight);
    check.distinct(name, view, "out", args.out).distinct(name, view, "next_norm", args.next_norm);
    check.distinct(name, view, "x_squares", args.x_squares);
  }
  check.distinct("next_squares", args.next_squares, "next_x", args.next_x);
}

void check_squares(core::ArgCheck& check, const LinearArgs& args) {
  check.input("x_squares", args.x_squares, {"M", "K/8"});
  if (!check.ok()) return;
  check.require(args.x.dim(1) == ops::kLinearSquares * args.x_squares.dim(1), "x_squares has ",
                args.x_squares.dim(1), " columns, must have K / 8 of K = ", args.x.dim(1));
  check.require(args.x_squares.dtype == DType::kF32, "x_squares is ",
                dtype_name(args.x_squares.dtype), ", must be f32");
  check.require(args.norm_weight.empty(),
                "x_squares and norm_weight are both given, must be one of them");
  check.distinct("out", args.out, "x_squares", args.x_squares);
}

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
  const bool hands_on =
      !args.next_norm.empty() || !args.next_x.empty() || !args.next_squares.empty();
  if (check.ok() && !args.norm_weight.empty()) check_norm(check, args);
  if (check.ok() && !args.x_squares.empty()) check_squares(check, args);
  if (check.ok() && (!args.norm_weight.empty() || !args.x_squares.empty())) {
    check.require(args.norm_epsilon >= 0, "norm_epsilon is ", args.norm_epsilon,
                  ", must be at least 0");
  }
  if (check.ok() && hands_on) check_next(check, args);
  return check.status();
}

ops::LinearParams cuda_params(const Context& context, const LinearArgs& args) {
  return {args.x,
          args.weight,
          args.out,
          args.accumulate,
          args.gate,
          nullptr,
          args.gate_weight,
          context.batch_invariant(),
          args.norm_weight,
          args.norm_epsilon,
          args.next_norm,
          args.next_x,
          args.next_squares,
          args.x_squares};
}

/// Why the CPU does not take valid arguments, or ok.
Status check_on_cpu(const LinearArgs& args) {
  if (args.accumulate && !args.gate_weight.empty()) {
    return error(StatusCode::kUnsupported,
                 "linear: accumulate is true with gate_weight, must be false on the CPU");
  }
  if (!args.next_norm.empty() || !args.x_squares.empty()) {
    return error(StatusCode::kUnsupported,
                 "linear: ", args.x_squares.empty() ? "next_norm" : "x_squares",
                 " is given, must be none on the CPU");
  }
  return {};
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
  HYBRIDATTN_TRY(check_on_cpu(args));
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
    return core::launch(context, "linear", cuda_params(context, args));
  }
  return run_on_cpu(context, args);
}

bool linear_takes(Context& context, const LinearArgs& args) {
  if (!check_linear(args).ok()) return false;
  if (context.device() == DeviceType::kCpu) return check_on_cpu(args).ok();
  return core::choose_device_kernel(context, cuda_params(context, args)).kernel != nullptr;
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
