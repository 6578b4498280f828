// What the kernels of the gated delta rule share: finding a head, preparing its q and k, one step.
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

/// One row of S: decays it, corrects it towards v and gives its product with q. Returns o.
inline float step_row(float* s, const float* q, const float* k, std::int64_t dim, float decay,
                      float beta, float v) {
  const DF d;
  VF recalled = hn::Zero(d);
  const VF factor = hn::Set(d, decay);
  for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
    const VF decayed = hn::Mul(load_part(s + i, n), factor);
    store_part(decayed, s + i, n);
    recalled = hn::MulAdd(decayed, load_part(k + i, n), recalled);
  });
  const VF u = hn::Set(d, beta * (v - hn::ReduceSum(d, recalled)));
  VF out = hn::Zero(d);
  for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
    const VF updated = hn::MulAdd(u, load_part(k + i, n), load_part(s + i, n));
    store_part(updated, s + i, n);
    out = hn::MulAdd(updated, load_part(q + i, n), out);
  });
  return hn::ReduceSum(d, out);
}

/// One step of one head, from the rows of state `from` (nullptr = zeros) to the rows `to`, which
/// may be the same memory. Row i of a state lies i * stride elements behind the first.
inline void step_head(const ops::GdnParams& p, std::int64_t token, std::int64_t head,
                      const std::byte* from, std::int64_t from_stride, std::byte* to,
                      std::int64_t to_stride, float* scratch) {
  const std::int64_t k_dim = p.k.dim(2);
  const std::int64_t v_dim = p.v.dim(2);
  const auto size = static_cast<std::int64_t>(dtype_size(p.state.dtype));
  float* q = scratch;
  float* k = q + k_dim;
  float* state_row = k + k_dim;
  float* v = state_row + k_dim;
  float* out = v + v_dim;
  load_qk(p, token, head, q, k);
  load_row(row3(p.v, token, head), p.v.dtype, v_dim, v);
  const float beta = gate_of(p.beta, token, head);
  const auto decay =
      static_cast<float>(std::exp(core::clamp_log_decay(gate_of(p.log_decay, token, head))));
  for (std::int64_t i = 0; i < v_dim; ++i) {
    std::byte* stored = to + i * to_stride * size;
    float* s = p.state.dtype == DType::kF32 ? reinterpret_cast<float*>(stored) : state_row;
    if (from == nullptr) {
      std::memset(s, 0, static_cast<std::size_t>(k_dim) * sizeof(float));
    } else if (const std::byte* source = from + i * from_stride * size;
               source != reinterpret_cast<const std::byte*>(s)) {
      load_row(source, p.state.dtype, k_dim, s);
    }
    out[i] = step_row(s, q, k, k_dim, decay, beta, v[i]);
    if (s == state_row) store_row(s, k_dim, stored, p.state.dtype);
  }
  store_row(out, v_dim, row3(p.out, token, head), p.out.dtype);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_GDN_INL_H_
