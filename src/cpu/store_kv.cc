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

/// One head of one token to its place in a cache.
void store_head(const ConstTensorView& x, std::int64_t token, std::int64_t head, float scale,
                std::byte* place, DType dtype, float* scratch) {
  const std::int64_t dim = x.dim(2);
  const float* row = row_f32(row3(x, token, head), x.dtype, dim, scratch);
  if (scale != 1.0f) {
    divide_row(row, scale, dim, scratch + dim);
    row = scratch + dim;
  }
  store_row(row, dim, place, dtype);
}

void store_kv(const ops::StoreKvParams& p, core::Launch& launch) {
  const std::int64_t page_size = p.k_cache.dim(1);
  const std::int64_t elements = p.k.dim(2) + p.v.dim(2);
  for_head_rows(launch, p.k.dim(0), p.k.dim(1), elements, [&](auto t, auto h, float* scratch) {
    const std::int64_t slot = p.token_slots[t];
    if (slot == kPadIndex) return;
    const std::int64_t page = slot / page_size;
    const std::int64_t offset = slot % page_size;
    store_head(p.k, t, h, p.k_scale, row4(p.k_cache, page, offset, h), p.k_cache.dtype, scratch);
    store_head(p.v, t, h, p.v_scale, row4(p.v_cache, page, offset, h), p.v_cache.dtype, scratch);
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
