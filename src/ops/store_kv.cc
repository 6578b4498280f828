#include "hybridattn/ops/store_kv.h"

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/cache_scale.h"
#include "src/ops/place_rows.h"
#include "src/ops/slot_check.h"
#include "src/ops/store_kv_params.h"

namespace hybridattn {

Status store_kv(Context& context, const StoreKvArgs& args) {
  core::ArgCheck check("store_kv");
  check.input("k", args.k, {"T", "HK", "D"}).input("v", args.v, {"T", "HK", "DV"});
  check.output("k_cache", args.k_cache, {"pages", "page_size", "HK", "D"},
               core::Dtypes::kCacheFloat);
  check.output("v_cache", args.v_cache, {"pages", "page_size", "HK", "DV"},
               core::Dtypes::kCacheFloat);
  ops::check_cache_scales(check, "k_scale", args.k_scale, "k_scales", args.k_scales);
  ops::check_cache_scales(check, "v_scale", args.v_scale, "v_scales", args.v_scales);
  if (!check.ok()) return check.status();
  check.array("token_slots", args.token_slots, check["T"]);
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(ops::check_slots("store_kv", "token_slots", args.token_slots, check["T"],
                                  check["pages"] * check["page_size"]));
  HYBRIDATTN_ASSIGN(
      const std::int64_t* token_slots,
      ops::place_array(context, args.token_slots, check["T"], args.device_token_slots));
  const ops::StoreKvParams params{args.k,
                                  args.v,
                                  token_slots,
                                  args.k_cache,
                                  args.v_cache,
                                  ops::head_scales(args.k_scale, args.k_scales),
                                  ops::head_scales(args.v_scale, args.v_scales)};
  const std::int64_t widest = check["D"] > check["DV"] ? check["D"] : check["DV"];
  return core::launch(context, "store_kv", params,
                      static_cast<std::size_t>(2 * widest) * sizeof(float));
}

}  // namespace hybridattn
