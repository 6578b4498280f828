// Stores keys and values to pages on the CPU.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/store_kv.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void store_kv(const ops::StoreKvParams& p, core::Launch& launch) {
  const std::int64_t page_size = p.k_cache.dim(1);
  const std::int64_t dim = p.k.dim(2);
  const std::int64_t v_dim = p.v.dim(2);
  for_head_rows(launch, p.k.dim(0), p.k.dim(1), dim + v_dim, [&](auto t, auto h, float* scratch) {
    const std::int64_t slot = p.token_slots[t];
    if (slot == kPadIndex) return;
    const std::int64_t page = slot / page_size;
    const std::int64_t offset = slot % page_size;
    const float* k = row_f32(row3(p.k, t, h), p.k.dtype, dim, scratch);
    store_row(k, dim, row4(p.k_cache, page, offset, h), p.k_cache.dtype);
    const float* v = row_f32(row3(p.v, t, h), p.v.dtype, v_dim, scratch);
    store_row(v, v_dim, row4(p.v_cache, page, offset, h), p.v_cache.dtype);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(store_kv);

core::CpuVariants<ops::StoreKvParams> store_kv_variants() {
  return variants<ops::StoreKvParams>(HWY_DISPATCH_TABLE(store_kv));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
