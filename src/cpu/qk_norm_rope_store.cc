// Norm and rotation of q and k and the store to pages on the CPU: a row goes through all of them
// while the first-level cache has it.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/qk_norm_rope_store.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/qk_rows-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// One head of q or k behind norm and rotation. `scratch`: three rows.
inline const float* norm_and_rotate(const ops::QkNormRopeStoreParams& p, const ConstTensorView& x,
                                    const ConstTensorView& norm, std::int64_t token,
                                    std::int64_t head, float* scratch) {
  const std::int64_t dim = x.dim(2);
  const float* row = row_f32(row3(x, token, head), x.dtype, dim, scratch);
  if (norm.rank != 0) {
    float* normed = scratch + dim;
    rms_norm_row(row, norm, dim, p.epsilon, p.zero_centered, scratch + 2 * dim, normed);
    row = normed;
  }
  if (p.cos.rank != 0) {
    float* rotated = scratch + 2 * dim;
    rotate_row(row, p.cos, p.sin, token, dim, rotated);
    row = rotated;
  }
  return row;
}

/// k and v of one head.
inline void store_key_and_value(const ops::QkNormRopeStoreParams& p, std::int64_t token,
                                std::int64_t head, float* scratch) {
  const std::int64_t dim = p.k.dim(2);
  const std::int64_t slot = p.token_slots != nullptr ? p.token_slots[token] : kPadIndex;
  if (p.k_out.rank == 0 && slot == kPadIndex) return;
  const float* key = norm_and_rotate(p, p.k, p.k_norm, token, head, scratch);
  if (slot != kPadIndex) {
    store_head(key, dim, p.k_scale.of(head), p.k_cache, slot, head, scratch + 3 * dim);
  }
  if (p.k_out.rank != 0) store_row(key, dim, row3(p.k_out, token, head), p.k_out.dtype);
  if (slot == kPadIndex) return;
  const std::int64_t v_dim = p.v.dim(2);
  const float* value = row_f32(row3(p.v, token, head), p.v.dtype, v_dim, scratch);
  store_head(value, v_dim, p.v_scale.of(head), p.v_cache, slot, head, scratch + v_dim);
}

void qk_norm_rope_store(const ops::QkNormRopeStoreParams& p, core::Launch& launch) {
  const std::int64_t dim = p.q.dim(2), q_heads = p.q.dim(1);
  for_head_rows(launch, p.q.dim(0), q_heads + p.kv_heads(), dim,
                [&](auto token, auto head, float* scratch) {
                  if (head >= q_heads) {
                    return store_key_and_value(p, token, head - q_heads, scratch);
                  }
                  const float* y = norm_and_rotate(p, p.q, p.q_norm, token, head, scratch);
                  store_row(y, dim, row3(p.q_out, token, head), p.q_out.dtype);
                });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(qk_norm_rope_store);

core::CpuVariants<ops::QkNormRopeStoreParams> qk_norm_rope_store_variants() {
  return variants<ops::QkNormRopeStoreParams>(HWY_DISPATCH_TABLE(qk_norm_rope_store));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
