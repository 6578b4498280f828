// L2 normalisation on the CPU.
#include <cmath>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/l2norm.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void l2norm(const ops::L2NormParams& p, core::Launch& launch) {
  const std::int64_t dim = p.x.dim(2);
  for_head_rows(launch, p.x.dim(0), p.x.dim(1), dim, [&](auto t, auto h, float* scratch) {
    const float* x = row_f32(row3(p.x, t, h), p.x.dtype, dim, scratch);
    const float factor = p.scale / std::sqrt(sum_squares(x, dim) + kL2NormEpsilon);
    scale_row(x, factor, dim, scratch + dim);
    store_row(scratch + dim, dim, row3(p.out, t, h), p.out.dtype);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(l2norm);

core::CpuVariants<ops::L2NormParams> l2norm_variants() {
  return variants<ops::L2NormParams>(HWY_DISPATCH_TABLE(l2norm));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
