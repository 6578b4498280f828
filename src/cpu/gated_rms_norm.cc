// Gated RMSNorm on the CPU.
#include <cmath>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/gated_rms_norm.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void gated_rms_norm(const ops::GatedRmsNormParams& p, core::Launch& launch) {
  const std::int64_t dim = p.x.dim(2);
  for_head_rows(launch, p.x.dim(0), p.x.dim(1), dim, [&](auto t, auto h, float* scratch) {
    const std::uint8_t token = p.pad == nullptr ? std::uint8_t{kNormed} : p.pad[t];
    if (token == kLeftOut) return;
    if (token != kNormed) return zero_row(dim, row3(p.out, t, h), p.out.dtype);
    const float* x = row_f32(row3(p.x, t, h), p.x.dtype, dim, scratch);
    const float* z = row_f32(row3(p.z, t, h), p.z.dtype, dim, scratch + dim);
    const float* w = row_f32(p.weight.data, p.weight.dtype, dim, scratch + 2 * dim);
    float* y = scratch + 3 * dim;
    const float mean = sum_squares(x, dim) / static_cast<float>(dim);
    const VF factor = hn::Set(DF(), 1.0f / std::sqrt(mean + p.epsilon));
    for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
      const VF gate_in = load_part(z + i, n);
      const VF squashed = sigmoid(gate_in);
      const VF gate = p.gate == GateKind::kSilu ? hn::Mul(gate_in, squashed) : squashed;
      const VF normed = hn::Mul(hn::Mul(load_part(x + i, n), factor), load_part(w + i, n));
      store_part(hn::Mul(normed, gate), y + i, n);
    });
    store_row(y, dim, row3(p.out, t, h), p.out.dtype);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(gated_rms_norm);

core::CpuVariants<ops::GatedRmsNormParams> gated_rms_norm_variants() {
  return variants<ops::GatedRmsNormParams>(HWY_DISPATCH_TABLE(gated_rms_norm));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
