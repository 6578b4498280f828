// How many pages and slots fit in a number of bytes.
#pragma once

#include <cstdint>

#include "hybridattn/gdn_state_pool.h"
#include "hybridattn/kv_pool.h"

namespace hybridattn {

struct CacheBudget {
  std::int32_t num_pages = 0;
  std::int32_t num_slots = 0;
  std::int64_t bytes = 0;  ///< exactly what the two pools of these counts allocate
};

/// The most pages that fit beside `num_slots` state slots in `bytes`, at most `max_pages`.
/// Errors: invalid_argument for negative numbers; resource_exhausted, with the bytes needed, when
/// not even the slots and one page fit.
HYBRIDATTN_API Result<CacheBudget> fit_cache_budget(const PagedKvShape& kv,
                                                    const GdnStateShape& gdn,
                                                    std::int32_t num_slots, std::int32_t max_pages,
                                                    std::int64_t bytes);

}  // namespace hybridattn
