#include "hybridattn/ops/gdn_decode_verify.h"

#include <limits>

#include "hybridattn/status_macros.h"
#include "src/ops/gdn_decode_apart.h"
#include "src/ops/place_rows.h"
#include "src/ops/verify_check.h"

namespace hybridattn {

Status ops::check_gdn_decode_verify(const GdnDecodeVerifyArgs& args,
                                    GdnDecodeVerifyParams& params) {
  constexpr const char* kOp = "gdn_decode_verify";
  const GdnDecodeArgs& x = args.decode;
  HYBRIDATTN_TRY(check_gdn_decode(kOp, x, std::numeric_limits<std::int32_t>::max(), params.decode));
  core::ArgCheck states(kOp);
  states.input("state", x.state, {"slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  states.output("kept", args.kept, {"kept slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  HYBRIDATTN_TRY(check_kept(states, x.state, args.kept, x.rows, args.verify));
  core::ArgCheck windows(kOp);
  windows.input("conv_state", x.conv_state, {"slots", "C", "W-1"});
  windows.output("kept_conv", args.kept_conv, {"kept slots", "C", "W-1"});
  HYBRIDATTN_TRY(check_kept(windows, x.conv_state, args.kept_conv, x.rows, args.verify,
                            {"conv_state", "kept_conv"}));
  params.verify = args.verify;
  params.kept = args.kept;
  params.kept_conv = args.kept_conv;
  return {};
}

Status ops::run_checked(Context& context, GdnDecodeVerifyParams& params) {
  RaggedRows& rows = params.decode.args.rows;
  DeviceRowTables tables;
  HYBRIDATTN_TRY(place_rows(context, rows, tables));
  HYBRIDATTN_TRY(
      place_verify_rows(context, rows, params.decode.args.mixed_qkv.dim(0), params.verify));
  return launch_fused_or_apart(context, "gdn_decode_verify", params, [&](Context& each) {
    return run_gdn_decode_apart(each, "gdn_decode_verify", params.decode, &params);
  });
}

Status gdn_decode_verify(Context& context, const GdnDecodeVerifyArgs& args) {
  ops::GdnDecodeVerifyParams params{};
  HYBRIDATTN_TRY(ops::check_gdn_decode_verify(args, params));
  return ops::run_checked(context, params);
}

}  // namespace hybridattn
