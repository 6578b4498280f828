// Stores keys and values to pages on the CPU.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/store_kv.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/qk_rows-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void store_kv(const ops::StoreKvParams& p, core::Launch& launch) {
  const std::int64_t elements = p.k.dim(2) + p.v.dim(2);
  for_head_rows(launch, p.k.dim(0), p.k.dim(1), elements, [&](auto t, auto h, float* scratch) {
    const std::int64_t slot = p.token_slots[t];
    if (slot == kPadIndex) return;
    const auto store = [&](const ConstTensorView& x, float scale, const TensorView& cache) {
      const std::int64_t dim = x.dim(2);
      const float* row = row_f32(row3(x, t, h), x.dtype, dim, scratch);
      store_head(row, dim, scale, cache, slot, h, scratch + dim);
    };
    store(p.k, p.k_scale.of(h), p.k_cache);
    store(p.v, p.v_scale.of(h), p.v_cache);
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
