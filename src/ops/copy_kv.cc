#include "hybridattn/ops/copy_kv.h"

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/copy_kv_params.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

Status copy_kv(Context& context, const CopyKvArgs& args) {
  core::ArgCheck check("copy_kv");
  check.output("k_cache", args.k_cache, {"pages", "page_size", "HK", "D"},
               core::Dtypes::kCacheFloat);
  check.output("v_cache", args.v_cache, {"pages", "page_size", "HK", "DV"},
               core::Dtypes::kCacheFloat);
  check.require(args.count >= 0, "count is ", args.count, ", must be at least 0");
  check.array("source", args.source, args.count).array("destination", args.destination, args.count);
  if (!check.ok()) return check.status();
  const std::int64_t places = check["pages"] * check["page_size"];
  for (std::int64_t i = 0; i < args.count; ++i) {
    for (const std::int64_t place : {args.source[i], args.destination[i]}) {
      if (place != kPadIndex && (place < 0 || place >= places)) {
        return error(StatusCode::kOutOfRange, "copy_kv: pair ", i, " names place ", place,
                     ", must be -1 (pad) or in [0, ", places, ")");
      }
    }
  }
  HYBRIDATTN_ASSIGN(const std::int64_t* source,
                    ops::place_array(context, args.source, args.count, args.device_source));
  HYBRIDATTN_ASSIGN(
      const std::int64_t* destination,
      ops::place_array(context, args.destination, args.count, args.device_destination));
  const ops::CopyKvParams params{args.k_cache, args.v_cache, source, destination, args.count};
  return core::launch(context, "copy_kv", params);
}

}  // namespace hybridattn
