#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void store_kv(const StoreKvArgs& args) {
  const std::int64_t page_size = args.k_cache.dim(1);
  for (std::int64_t t = 0; t < args.k.dim(0); ++t) {
    const std::int64_t slot = args.token_slots[t];
    if (slot == kPadIndex) continue;
    for (std::int64_t h = 0; h < args.k.dim(1); ++h) {
      const double k_scale = args.k_scales.empty() ? args.k_scale : load(args.k_scales, h);
      const double v_scale = args.v_scales.empty() ? args.v_scale : load(args.v_scales, h);
      for (std::int64_t i = 0; i < args.k.dim(2); ++i) {
        store(args.k_cache, load(args.k, t, h, i) / k_scale, slot / page_size, slot % page_size, h,
              i);
      }
      for (std::int64_t i = 0; i < args.v.dim(2); ++i) {
        store(args.v_cache, load(args.v, t, h, i) / v_scale, slot / page_size, slot % page_size, h,
              i);
      }
    }
  }
}

}  // namespace hybridattn::reference
