#include "hybridattn/ops/gdn_decode.h"

#include <cmath>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_decode_apart.h"
#include "src/ops/place_rows.h"
#include "src/ops/ragged_check.h"

namespace hybridattn {

Status ops::check_gdn_decode(const char* op, const GdnDecodeArgs& args, std::int64_t max_length,
                             GdnDecodeParams& params) {
  core::ArgCheck check(op);
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
  HYBRIDATTN_TRY(ops::check_ragged_rows(op, args.rows, check["T"], check["slots"], max_length));
  params = {args,       check["HV"], check["K"],
            check["V"], check["W"],  1.0f / std::sqrt(static_cast<float>(check["K"]))};
  return {};
}

Status ops::run_checked(Context& context, GdnDecodeParams& params) {
  DeviceRowTables tables;
  HYBRIDATTN_TRY(place_rows(context, params.args.rows, tables));
  return launch_fused_or_apart(context, "gdn_decode", params, [&](Context& each) {
    return run_gdn_decode_apart(each, "gdn_decode", params, nullptr);
  });
}

Status gdn_decode(Context& context, const GdnDecodeArgs& args) {
  ops::GdnDecodeParams params{};
  HYBRIDATTN_TRY(ops::check_gdn_decode("gdn_decode", args, 1, params));
  return ops::run_checked(context, params);
}

}  // namespace hybridattn
