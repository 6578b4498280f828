// Rotary embedding and its table on the CPU.
#include <cmath>

#include "src/core/formulas.h"
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/rotary.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/qk_rows-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void rotary(const ops::RotaryParams& p, core::Launch& launch) {
  const std::int64_t dim = p.x.dim(2);
  for_head_rows(launch, p.x.dim(0), p.x.dim(1), dim, [&](auto t, auto h, float* scratch) {
    const float* x = row_f32(row3(p.x, t, h), p.x.dtype, dim, scratch);
    float* y = scratch + dim;
    rotate_row(x, p.cos, p.sin, t, dim, y);
    store_row(y, dim, row3(p.out, t, h), p.out.dtype);
  });
}

void rotary_table(const ops::RotaryTableParams& p, core::Launch& launch) {
  const std::int64_t half = p.rotary_dim / 2;
  for_head_rows(launch, p.cos.dim(0), 1, half, [&](auto t, auto, float*) {
    auto* cosine = reinterpret_cast<float*>(row2(p.cos, t));
    auto* sine = reinterpret_cast<float*>(row2(p.sin, t));
    const std::int64_t positions[] = {p.positions[t], p.height != nullptr ? p.height[t] : 0,
                                      p.width != nullptr ? p.width[t] : 0};
    for (std::int64_t i = 0; i < half; ++i) {
      const int axis =
          p.height != nullptr ? core::mrope_axis(i, p.height_section, p.width_section) : 0;
      const double exponent = -2.0 * static_cast<double>(i) / p.rotary_dim;
      const double angle = static_cast<double>(positions[axis]) * std::pow(p.theta, exponent);
      cosine[i] = static_cast<float>(std::cos(angle));
      sine[i] = static_cast<float>(std::sin(angle));
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(rotary);
HWY_EXPORT(rotary_table);

core::CpuVariants<ops::RotaryParams> rotary_variants() {
  return variants<ops::RotaryParams>(HWY_DISPATCH_TABLE(rotary));
}

core::CpuVariants<ops::RotaryTableParams> rotary_table_variants() {
  return variants<ops::RotaryTableParams>(HWY_DISPATCH_TABLE(rotary_table));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
