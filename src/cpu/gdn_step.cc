// The gated delta rule for one token on the CPU: one pass over the state, in place.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/gdn_step.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/gdn-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// One row of S: decays it, corrects it towards v and gives its product with q. Returns o.
float step_row(float* s, const float* q, const float* k, std::int64_t dim, float decay, float beta,
               float v) {
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

void step_head(const ops::GdnStepParams& p, std::int32_t row, std::int64_t head, float* scratch) {
  const std::int64_t k_dim = p.k.dim(2);
  const std::int64_t v_dim = p.v.dim(2);
  const std::int64_t token = p.rows.start[row];
  std::byte* out_row = row3(p.out, token, head);
  const std::int32_t slot = p.rows.slot[row];
  if (slot == kPadIndex) return zero_row(v_dim, out_row, p.out.dtype);
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
  const bool fresh = p.rows.computed[row] == 0;
  for (std::int64_t i = 0; i < v_dim; ++i) {
    std::byte* stored = row4(p.state, slot, head, i);
    float* s = p.state.dtype == DType::kF32 ? reinterpret_cast<float*>(stored) : state_row;
    if (fresh) {
      std::memset(s, 0, static_cast<std::size_t>(k_dim) * sizeof(float));
    } else if (s == state_row) {
      load_row(stored, p.state.dtype, k_dim, s);
    }
    out[i] = step_row(s, q, k, k_dim, decay, beta, v[i]);
    if (s == state_row) store_row(s, k_dim, stored, p.state.dtype);
  }
  store_row(out, v_dim, out_row, p.out.dtype);
}

void gdn_step(const ops::GdnStepParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t heads = p.v.dim(1);
  parallel_for(launch.executor, p.rows.count * heads, [&](std::int64_t task, int worker) {
    const auto row = static_cast<std::int32_t>(task / heads);
    if (p.rows.length[row] == 0) return;
    step_head(p, row, task % heads, launch.scratch<float>(worker));
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(gdn_step);

core::CpuVariants<ops::GdnStepParams> gdn_step_variants() {
  return variants<ops::GdnStepParams>(HWY_DISPATCH_TABLE(gdn_step));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
