// RMSNorm on the CPU: two passes over each row, the second from the first-level cache.
#include <cmath>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/rms_norm.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void rms_norm(const ops::RmsNormParams& p, core::Launch& launch) {
  const std::int64_t dim = p.x.dim(2);
  const VF offset = hn::Set(DF(), p.zero_centered ? 1.0f : 0.0f);
  for_head_rows(launch, p.x.dim(0), p.x.dim(1), dim, [&](auto t, auto h, float* scratch) {
    const float* x = row_f32(row3(p.x, t, h), p.x.dtype, dim, scratch);
    const float* w = row_f32(p.weight.data, p.weight.dtype, dim, scratch + dim);
    float* y = scratch + 2 * dim;
    const float mean = sum_squares(x, dim) / static_cast<float>(dim);
    const VF factor = hn::Set(DF(), 1.0f / std::sqrt(mean + p.epsilon));
    for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
      const VF weight = hn::Add(load_part(w + i, n), offset);
      store_part(hn::Mul(hn::Mul(load_part(x + i, n), factor), weight), y + i, n);
    });
    store_row(y, dim, row3(p.out, t, h), p.out.dtype);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(rms_norm);

core::CpuVariants<ops::RmsNormParams> rms_norm_variants() {
  return variants<ops::RmsNormParams>(HWY_DISPATCH_TABLE(rms_norm));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
