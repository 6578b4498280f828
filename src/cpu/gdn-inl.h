// What the two kernels of the gated delta rule share: finding a head and preparing its q and k.
#include <cmath>

#include "hybridattn/ops/l2norm.h"
#include "src/core/formulas.h"
#include "src/cpu/simd-inl.h"
#include "src/ops/gdn_params.h"

#if defined(HYBRIDATTN_CPU_GDN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_GDN_INL_H_
#undef HYBRIDATTN_CPU_GDN_INL_H_
#else
#define HYBRIDATTN_CPU_GDN_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// q (scaled) and k of one token and value head, as floats, normalised where the call asks for it.
inline void load_qk(const ops::GdnParams& p, std::int64_t token, std::int64_t head, float* q,
                    float* k) {
  const std::int64_t dim = p.k.dim(2);
  const std::int64_t source = core::key_head(head, p.group);
  load_row(row3(p.q, token, source), p.q.dtype, dim, q);
  load_row(row3(p.k, token, source), p.k.dtype, dim, k);
  float q_factor = p.scale;
  if (p.qk_l2norm) {
    q_factor = p.scale / std::sqrt(sum_squares(q, dim) + kL2NormEpsilon);
    scale_row(k, 1.0f / std::sqrt(sum_squares(k, dim) + kL2NormEpsilon), dim, k);
  }
  scale_row(q, q_factor, dim, q);
}

inline float gate_of(const ConstTensorView& view, std::int64_t token, std::int64_t head) {
  return *reinterpret_cast<const float*>(
      element(view, token * view.stride(0) + head * view.stride(1)));
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_GDN_INL_H_
