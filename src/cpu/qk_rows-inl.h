// What rms_norm, rotary and store_kv do to one row of one head: each op alone, and all of them in
// qk_norm_rope_store.
#include <cmath>

#include "src/cpu/simd-inl.h"

#if defined(HYBRIDATTN_CPU_QK_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_QK_ROWS_INL_H_
#undef HYBRIDATTN_CPU_QK_ROWS_INL_H_
#else
#define HYBRIDATTN_CPU_QK_ROWS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// y = x * rsqrt(mean(x^2) + epsilon) * (weight, or 1 + weight). Two passes, the second from the
/// first-level cache. `scratch`: dim floats.
inline void rms_norm_row(const float* x, const ConstTensorView& weight, std::int64_t dim,
                         float epsilon, bool zero_centered, float* scratch, float* y) {
  const float* w = row_f32(weight.data, weight.dtype, dim, scratch);
  const VF offset = hn::Set(DF(), zero_centered ? 1.0f : 0.0f);
  const float mean = sum_squares(x, dim) / static_cast<float>(dim);
  const VF factor = hn::Set(DF(), 1.0f / std::sqrt(mean + epsilon));
  for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
    const VF shifted = hn::Add(load_part(w + i, n), offset);
    store_part(hn::Mul(hn::Mul(load_part(x + i, n), factor), shifted), y + i, n);
  });
}

/// y = the first 2 * half elements of x rotated by token's angles, the rest as they are. y is not
/// x.
inline void rotate_row(const float* x, const ConstTensorView& cos, const ConstTensorView& sin,
                       std::int64_t token, std::int64_t dim, float* y) {
  const std::int64_t half = cos.dim(1);
  const auto* cosine = reinterpret_cast<const float*>(row2(cos, token));
  const auto* sine = reinterpret_cast<const float*>(row2(sin, token));
  for_vectors(half, [&](std::int64_t i, std::int64_t n) {
    const VF lower = load_part(x + i, n);
    const VF upper = load_part(x + half + i, n);
    const VF c = load_part(cosine + i, n);
    const VF s = load_part(sine + i, n);
    store_part(hn::NegMulAdd(upper, s, hn::Mul(lower, c)), y + i, n);
    store_part(hn::MulAdd(lower, s, hn::Mul(upper, c)), y + half + i, n);
  });
  std::memcpy(y + 2 * half, x + 2 * half, static_cast<std::size_t>(dim - 2 * half) * sizeof(float));
}

/// One head of one token to its place in a cache, divided by the scale. `scratch`: dim floats.
inline void store_head(const float* row, std::int64_t dim, float scale, const TensorView& cache,
                       std::int64_t slot, std::int64_t head, float* scratch) {
  if (scale != 1.0f) {
    divide_row(row, scale, dim, scratch);
    row = scratch;
  }
  const std::int64_t page_size = cache.dim(1);
  store_row(row, dim, row4(cache, slot / page_size, slot % page_size, head), cache.dtype);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_QK_ROWS_INL_H_
