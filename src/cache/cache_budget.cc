#include "hybridattn/cache_budget.h"

#include <algorithm>

#include "src/core/saturate.h"

namespace hybridattn {

Result<CacheBudget> fit_cache_budget(const PagedKvShape& kv, const GdnStateShape& gdn,
                                     std::int32_t num_slots, std::int32_t max_pages,
                                     std::int64_t bytes) {
  if (num_slots < 0) {
    return invalid_argument("fit_cache_budget: num_slots is ", num_slots, ", must be at least 0");
  }
  if (max_pages < 1) {
    return invalid_argument("fit_cache_budget: max_pages is ", max_pages, ", must be at least 1");
  }
  if (bytes < 0) {
    return invalid_argument("fit_cache_budget: bytes is ", bytes, ", must be at least 0");
  }
  const std::int64_t page_bytes = kv.page_bytes();
  const std::int64_t slot_bytes = core::saturating_product({num_slots, gdn.slot_bytes()});
  if (bytes < core::saturating_sum(slot_bytes, page_bytes)) {
    return error(StatusCode::kResourceExhausted, "fit_cache_budget: the budget is ", bytes,
                 " bytes, must be at least ", core::saturating_sum(slot_bytes, page_bytes), " for ",
                 num_slots, " state slots (", slot_bytes, ") and one page (", page_bytes, ")");
  }
  CacheBudget budget;
  budget.num_slots = num_slots;
  budget.num_pages = static_cast<std::int32_t>(
      page_bytes > 0 ? std::min<std::int64_t>((bytes - slot_bytes) / page_bytes, max_pages)
                     : max_pages);
  budget.bytes = slot_bytes + budget.num_pages * page_bytes;
  return budget;
}

}  // namespace hybridattn
