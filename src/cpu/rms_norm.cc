// RMSNorm on the CPU.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/rms_norm.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/qk_rows-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void rms_norm(const ops::RmsNormParams& p, core::Launch& launch) {
  const std::int64_t dim = p.x.dim(2);
  for_head_rows(launch, p.x.dim(0), p.x.dim(1), dim, [&](auto t, auto h, float* scratch) {
    const float* x = row_f32(row3(p.x, t, h), p.x.dtype, dim, scratch);
    float* y = scratch + 2 * dim;
    rms_norm_row(x, p.weight, dim, p.epsilon, p.zero_centered, scratch + dim, y);
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
