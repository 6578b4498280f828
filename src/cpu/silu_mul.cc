// silu(gate) * up on the CPU.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/silu_mul.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Tensors of one type, row by row without a copy in float.
template <class T>
void silu_mul_of(const ops::SiluMulParams& p, std::int64_t token) {
  const auto* gate = reinterpret_cast<const T*>(row2(p.gate, token));
  const auto* up = reinterpret_cast<const T*>(row2(p.up, token));
  auto* out = reinterpret_cast<T*>(row2(p.out, token));
  for_vectors(p.gate.dim(1), [&](std::int64_t i, std::int64_t n) HWY_ATTR {
    const VF g = load_part(gate + i, n);
    store_part(hn::Mul(hn::Mul(g, sigmoid(g)), load_part(up + i, n)), out + i, n);
  });
}

void silu_mul(const ops::SiluMulParams& p, core::Launch& launch) {
  const std::int64_t dim = p.gate.dim(1);
  const bool one_type = p.gate.dtype == p.up.dtype && p.gate.dtype == p.out.dtype;
  for_head_rows(launch, p.gate.dim(0), 1, dim, [&](auto t, auto, float* scratch) {
    if (one_type && p.gate.dtype == DType::kBF16) return silu_mul_of<BF16>(p, t);
    if (one_type && p.gate.dtype == DType::kF32) return silu_mul_of<float>(p, t);
    const float* gate = row_f32(row2(p.gate, t), p.gate.dtype, dim, scratch);
    const float* up = row_f32(row2(p.up, t), p.up.dtype, dim, scratch + dim);
    float* y = scratch + 2 * dim;
    for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
      const VF g = load_part(gate + i, n);
      store_part(hn::Mul(hn::Mul(g, sigmoid(g)), load_part(up + i, n)), y + i, n);
    });
    store_row(y, dim, row2(p.out, t), p.out.dtype);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(silu_mul);

core::CpuVariants<ops::SiluMulParams> silu_mul_variants() {
  return variants<ops::SiluMulParams>(HWY_DISPATCH_TABLE(silu_mul));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
