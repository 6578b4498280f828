#include "hybridattn/ops/gdn_decode.h"

#include <cmath>
#include <vector>

#include "hybridattn/ops/causal_conv.h"
#include "hybridattn/ops/gdn_gates.h"
#include "hybridattn/ops/gdn_step.h"
#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/core/kernel.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_decode_params.h"
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

/// The float32 tensors between the ops.
struct Between {
  TensorView conv_out, log_decay, beta, core_out;
};

Result<Between> make_between(Context& context, const ops::GdnDecodeParams& p) {
  const GdnDecodeArgs& x = p.args;
  const std::int64_t tokens = x.mixed_qkv.dim(0);
  const std::int64_t channels = x.mixed_qkv.dim(1);
  const std::int64_t decays = p.v_heads * (x.a.rank == 3 ? p.k_dim : 1);
  const std::int64_t floats = tokens * (channels + decays + p.v_heads + p.v_heads * p.v_dim);
  HYBRIDATTN_ASSIGN(std::byte * block,
                    core::shared_workspace(context, static_cast<std::size_t>(floats) * 4));
  auto* next = reinterpret_cast<float*>(block);
  const auto take = [&](std::int64_t count) {
    float* taken = next;
    next += count;
    return taken;
  };
  Between b;
  b.conv_out = TensorView(take(tokens * channels), DType::kF32, {tokens, channels});
  float* log_decay = take(tokens * decays);
  b.log_decay = x.a.rank == 3 ? TensorView(log_decay, DType::kF32, {tokens, p.v_heads, p.k_dim})
                              : TensorView(log_decay, DType::kF32, {tokens, p.v_heads});
  b.beta = TensorView(take(tokens * p.v_heads), DType::kF32, {tokens, p.v_heads});
  b.core_out =
      TensorView(take(tokens * p.v_heads * p.v_dim), DType::kF32, {tokens, p.v_heads, p.v_dim});
  return b;
}

/// The norm of the tokens that rows name: stretches of neighbours at once. Padding becomes zeros.
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

/// The ops one after the other.
Status run_apart(Context& context, const ops::GdnDecodeParams& p) {
  const GdnDecodeArgs& x = p.args;
  HYBRIDATTN_ASSIGN(const Between b, make_between(context, p));
  const std::int64_t tokens = x.mixed_qkv.dim(0);
  const std::int64_t channels = x.mixed_qkv.dim(1);
  const std::int64_t key_channels = x.num_k_heads * p.k_dim;
  HYBRIDATTN_TRY(
      causal_conv(context, {x.rows, x.mixed_qkv, x.conv_weight, x.conv_state, b.conv_out}));
  HYBRIDATTN_TRY(
      gdn_gates(context, {x.a, x.b, x.a_log, x.dt_bias, b.log_decay, b.beta, x.allow_neg_eigval}));
  GdnArgs step;
  step.rows = x.rows;
  step.q = b.conv_out.at(0, {tokens, x.num_k_heads, p.k_dim}, {channels, p.k_dim, 1});
  step.k = b.conv_out.at(key_channels, {tokens, x.num_k_heads, p.k_dim}, {channels, p.k_dim, 1});
  step.v = b.conv_out.at(2 * key_channels, {tokens, p.v_heads, p.v_dim}, {channels, p.v_dim, 1});
  step.log_decay = b.log_decay;
  step.beta = b.beta;
  step.state = x.state;
  step.scale = p.scale;
  step.out = x.z.empty() ? x.out : b.core_out;
  HYBRIDATTN_TRY(gdn_step(context, step));
  if (x.z.empty()) return {};
  // Zeros of padding come from a step of nothing but padding.
  std::vector<std::int32_t> pads;
  for (std::int32_t r = 0; r < x.rows.count; ++r) {
    if (x.rows.slot[r] == kPadIndex && x.rows.length[r] > 0) pads.push_back(x.rows.start[r]);
  }
  if (!pads.empty()) {
    const std::vector<std::int32_t> ones(pads.size(), 1), none(pads.size(), kPadIndex);
    step.rows = {static_cast<std::int32_t>(pads.size()), pads.data(), ones.data(), none.data(),
                 ones.data()};
    step.out = x.out;
    HYBRIDATTN_TRY(gdn_step(context, step));
  }
  return norm_rows(context, p, b.core_out);
}

}  // namespace

Status gdn_decode(Context& context, const GdnDecodeArgs& args) {
  ops::GdnDecodeParams params{};
  HYBRIDATTN_TRY(check_args(args, params));
  if (context.device() == DeviceType::kCpu) return run_apart(context, params);
  DeviceRowTables tables;
  HYBRIDATTN_TRY(ops::place_rows(context, params.args.rows, tables));
  const auto fused = core::choose_device_kernel(context, "gdn_decode", params);
  if (!fused.ok()) return run_apart(context, params);
  return core::launch(context, "gdn_decode", params);
}

}  // namespace hybridattn
