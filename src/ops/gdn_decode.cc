#include "hybridattn/ops/gdn_decode.h"

#include <cmath>

#include "hybridattn/ops/causal_conv.h"
#include "hybridattn/ops/gdn_gates.h"
#include "hybridattn/ops/gdn_step.h"
#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/core/kernel.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_decode_params.h"
#include "src/ops/gdn_intermediates.h"
#include "src/ops/place_rows.h"
#include "src/ops/ragged_check.h"

namespace hybridattn {
namespace {

Status check_args(const GdnDecodeArgs& args, ops::GdnDecodeParams& params) {
  core::ArgCheck check("gdn_decode");
  check.input("mixed_qkv", args.mixed_qkv, {"T", "C"});
  check.input("conv_weight", args.conv_weight, {"C", "W"});
  check.output("conv_state", args.conv_state, {"slots", "C", "W-1"});
  if (args.a.rank == 3) {
    check.input("a", args.a, {"T", "HV", "K"}).input("dt_bias", args.dt_bias, {"HV", "K"});
  } else {
    check.input("a", args.a, {"T", "HV"}).input("dt_bias", args.dt_bias, {"HV"});
  }
  check.input("b", args.b, {"T", "HV"}).input("a_log", args.a_log, {"HV"});
  check.output("state", args.state, {"slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  check.output("out", args.out, {"T", "HV", "V"});
  check.optional_input("z", args.z, {"T", "HV", "V"});
  check.optional_input("norm_weight", args.norm_weight, {"V"});
  check.require(args.z.empty() == args.norm_weight.empty(),
                "z and norm_weight must be given together");
  check.require(args.norm_epsilon >= 0, "norm_epsilon is ", args.norm_epsilon,
                ", must be at least 0");
  check.require(args.gate == GateKind::kSilu || args.gate == GateKind::kSigmoid, "gate is ",
                static_cast<int>(args.gate), ", must be kSilu or kSigmoid");
  check.require(args.num_k_heads > 0, "num_k_heads is ", args.num_k_heads, ", must be at least 1");
  if (!check.ok()) return check.status();
  ops::check_gdn_heads(check, args.num_k_heads, check["HV"], check["K"], check["V"]);
  check.require_supported(check["W"] >= 2 && check["W"] <= 4, "conv_weight has W = ", check["W"],
                          " (dim 1), must be 2 to 4");
  check.require(check["W-1"] == check["W"] - 1, "conv_state has W-1 = ", check["W-1"],
                " (dim 2), must be ", check["W"] - 1, " for W = ", check["W"], " of conv_weight");
  const std::int64_t channels = 2 * args.num_k_heads * check["K"] + check["HV"] * check["V"];
  check.require(check["C"] == channels, "mixed_qkv has C = ", check["C"],
                " channels, must be 2 HK K + HV V = ", channels);
  check.distinct("out", args.out, "mixed_qkv", args.mixed_qkv)
      .distinct("out", args.out, "z", args.z);
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(ops::check_ragged_rows("gdn_decode", args.rows, check["T"], check["slots"], 1));
  params = {args,       check["HV"], check["K"],
            check["V"], check["W"],  1.0f / std::sqrt(static_cast<float>(check["K"]))};
  return {};
}

/// The norm of the tokens that rows name, padding aside: stretches of neighbours at once.
Status norm_rows(Context& context, const ops::GdnDecodeParams& p, const TensorView& core_out) {
  const GdnDecodeArgs& x = p.args;
  const auto rows_of = [](const auto& view, std::int64_t first, std::int64_t count) {
    return view.at(first * view.stride(0), {count, view.dim(1), view.dim(2)},
                   {view.stride(0), view.stride(1), view.stride(2)});
  };
  const RaggedRows& rows = x.rows;
  const auto named = [&](std::int32_t r) {
    return rows.length[r] > 0 && rows.slot[r] != kPadIndex;
  };
  for (std::int32_t r = 0; r < rows.count;) {
    std::int32_t end = r + 1;
    if (named(r)) {
      while (end < rows.count && named(end) && rows.start[end] == rows.start[end - 1] + 1) ++end;
      const std::int64_t first = rows.start[r];
      HYBRIDATTN_TRY(gated_rms_norm(
          context, {rows_of(core_out, first, end - r), rows_of(x.z, first, end - r), x.norm_weight,
                    rows_of(x.out, first, end - r), x.norm_epsilon, x.gate}));
    }
    r = end;
  }
  return {};
}

/// Zeros for padding: a step of nothing else writes them.
Status zero_pads(Context& context, const ops::GdnDecodeParams& p, const GdnArgs& step) {
  const std::int32_t one = 1, pad = kPadIndex;
  const RaggedRows& rows = p.args.rows;
  GdnArgs zeros = step;
  zeros.out = p.args.out;
  for (std::int32_t r = 0; r < rows.count; ++r) {
    if (rows.slot[r] != kPadIndex || rows.length[r] == 0) continue;
    zeros.rows = {1, &rows.start[r], &one, &pad, &one};
    HYBRIDATTN_TRY(gdn_step(context, zeros));
  }
  return {};
}

/// The ops one after the other.
Status run_apart(Context& context, const ops::GdnDecodeParams& p) {
  const GdnDecodeArgs& x = p.args;
  const ops::GdnDims dims{x.mixed_qkv.dim(0), x.num_k_heads, p.v_heads, p.k_dim, p.v_dim,
                          x.a.rank == 3};
  HYBRIDATTN_ASSIGN(std::byte * block,
                    core::shared_workspace(context, ops::GdnIntermediates::bytes(dims)));
  const ops::GdnIntermediates b(block, dims);
  HYBRIDATTN_TRY(
      causal_conv(context, {x.rows, x.mixed_qkv, x.conv_weight, x.conv_state, b.conv_out}));
  HYBRIDATTN_TRY(
      gdn_gates(context, {x.a, x.b, x.a_log, x.dt_bias, b.log_decay, b.beta, x.allow_neg_eigval}));
  GdnArgs step = b.delta_rule();
  step.rows = x.rows;
  step.state = x.state;
  step.out = x.z.empty() ? x.out : b.core_out;
  HYBRIDATTN_TRY(gdn_step(context, step));
  if (x.z.empty()) return {};
  HYBRIDATTN_TRY(zero_pads(context, p, step));
  return norm_rows(context, p, b.core_out);
}

}  // namespace

Status gdn_decode(Context& context, const GdnDecodeArgs& args) {
  ops::GdnDecodeParams params{};
  HYBRIDATTN_TRY(check_args(args, params));
  if (context.device() == DeviceType::kCpu) return run_apart(context, params);
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.args.rows, tables));
  const auto fused = core::choose_device_kernel(context, params);
  return fused.kernel == nullptr
             ? run_apart(context, params)
             : core::launch_device_kernel(context, "gdn_decode", *fused.kernel, params);
}

}  // namespace hybridattn
