#include "hybridattn/ops/store_kv.h"

#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/cache_scale.h"
#include "src/ops/store_kv_params.h"

namespace hybridattn {

Status store_kv(Context& context, const StoreKvArgs& args) {
  core::ArgCheck check("store_kv");
  check.input("k", args.k, {"T", "HK", "D"}).input("v", args.v, {"T", "HK", "DV"});
  check.output("k_cache", args.k_cache, {"pages", "page_size", "HK", "D"},
               core::Dtypes::kCacheFloat);
  check.output("v_cache", args.v_cache, {"pages", "page_size", "HK", "DV"},
               core::Dtypes::kCacheFloat);
  ops::check_cache_scale(check, "k_scale", args.k_scale);
  ops::check_cache_scale(check, "v_scale", args.v_scale);
  if (!check.ok()) return check.status();
  check.array("token_slots", args.token_slots, check["T"]);
  if (!check.ok()) return check.status();
  const std::int64_t places = check["pages"] * check["page_size"];
  for (std::int64_t t = 0; t < check["T"]; ++t) {
    const std::int64_t slot = args.token_slots[t];
    if (slot != kPadIndex && (slot < 0 || slot >= places)) {
      return error(StatusCode::kOutOfRange, "store_kv: token_slots[", t, "] is ", slot,
                   ", must be -1 (pad) or in [0, ", places, ")");
    }
  }
  const ops::StoreKvParams params{args.k,       args.v,       args.token_slots, args.k_cache,
                                  args.v_cache, args.k_scale, args.v_scale};
  const std::int64_t widest = check["D"] > check["DV"] ? check["D"] : check["DV"];
  return core::launch(context, "store_kv", params,
                      static_cast<std::size_t>(2 * widest) * sizeof(float));
}

}  // namespace hybridattn
