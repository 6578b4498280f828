// Moves keys and values on the CPU: the heads of k and v go in parallel, the pairs of each in
// order.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/copy_kv.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/kernels.h"
#include "src/cpu/simd-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void copy_kv(const ops::CopyKvParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t heads = p.k_cache.dim(2);
  parallel_for(launch.executor, 2 * heads, [&](std::int64_t task, int) {
    const TensorView& cache = task < heads ? p.k_cache : p.v_cache;
    const std::int64_t page_size = cache.dim(1);
    const auto place = [&](std::int64_t at) {
      return row4(cache, at / page_size, at % page_size, task % heads);
    };
    const auto bytes = static_cast<std::size_t>(cache.dim(3)) * dtype_size(cache.dtype);
    for (std::int64_t i = 0; i < p.count; ++i) {
      if (p.source[i] == kPadIndex || p.destination[i] == kPadIndex) continue;
      if (p.source[i] != p.destination[i]) {
        std::memcpy(place(p.destination[i]), place(p.source[i]), bytes);
      }
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(copy_kv);

core::CpuVariants<ops::CopyKvParams> copy_kv_variants() {
  return variants<ops::CopyKvParams>(HWY_DISPATCH_TABLE(copy_kv));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
