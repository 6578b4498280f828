#include "src/ops/gdn_check.h"

#include <cmath>

#include "hybridattn/status_macros.h"
#include "src/ops/ragged_check.h"

namespace hybridattn::ops {
namespace {

bool supported_dim(std::int64_t dim) { return dim >= 16 && dim <= 256 && dim % 16 == 0; }

}  // namespace

void check_gdn_heads(core::ArgCheck& check, std::int64_t hk, std::int64_t hv, std::int64_t k_dim,
                     std::int64_t v_dim) {
  check.require(hk > 0 && hv > 0 && hv % hk == 0, "v has HV = ", hv,
                " heads, must be a multiple of HK = ", hk, " of k");
  check.require_supported(supported_dim(k_dim), "k has K = ", k_dim,
                          ", must be 16 to 256 in steps of 16");
  check.require_supported(supported_dim(v_dim), "v has V = ", v_dim,
                          ", must be 16 to 256 in steps of 16");
}

Status check_gdn(const char* op, const GdnArgs& args, std::int64_t max_length, GdnParams& params) {
  core::ArgCheck check(op);
  check.input("q", args.q, {"T", "HK", "K"}).input("k", args.k, {"T", "HK", "K"});
  check.input("v", args.v, {"T", "HV", "V"});
  if (args.log_decay.rank == 3) {
    check.input("log_decay", args.log_decay, {"T", "HV", "K"}, core::Dtypes::kF32);
  } else {
    check.input("log_decay", args.log_decay, {"T", "HV"}, core::Dtypes::kF32);
  }
  check.input("beta", args.beta, {"T", "HV"}, core::Dtypes::kF32);
  check.output("state", args.state, {"slots", "HV", "V", "K"}, core::Dtypes::kStateFloat);
  check.output("out", args.out, {"T", "HV", "V"});
  if (!check.ok()) return check.status();
  const std::int64_t hk = check["HK"];
  const std::int64_t hv = check["HV"];
  check_gdn_heads(check, hk, hv, check["K"], check["V"]);
  check.distinct("out", args.out, "q", args.q).distinct("out", args.out, "k", args.k);
  check.distinct("out", args.out, "v", args.v);
  check.require(std::isfinite(args.scale) && args.scale != 0, "scale is ", args.scale,
                ", must be given: finite and not 0 (usually K^-1/2)");
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(check_ragged_rows(op, args.rows, check["T"], check["slots"], max_length));
  params = GdnParams{args.rows,  args.q,   args.k,     args.v,         args.log_decay, args.beta,
                     args.state, args.out, args.scale, args.qk_l2norm, hv / hk};
  return {};
}

}  // namespace hybridattn::ops
