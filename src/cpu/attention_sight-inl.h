// Which keys a query sees, where they lie, and what becomes of a logit.
#include <bit>
#include <cstdint>

#include "src/core/formulas.h"
#include "src/cpu/simd-inl.h"
#include "src/ops/attention_params.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_SIGHT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_SIGHT_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_SIGHT_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_SIGHT_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline core::KeyRange range_of(const ops::AttentionParams& p, std::int32_t row,
                               std::int64_t query) {
  return core::visible_keys(query, p.rows.q_length[row], p.rows.kv_length[row], p.options.causal,
                            p.options.window);
}

/// What a token of a tree sees: keys of the row from `begin` on that are not new, and the new ones
/// whose bit is set.
struct TreeSight {
  std::int64_t begin = 0;
  std::uint64_t path = 0;
};

inline TreeSight tree_sight(const ops::AttentionParams& p, std::int32_t row, std::int64_t query) {
  TreeSight sight;
  std::int64_t depth = 0;  // tokens from the query up, itself included
  const std::int64_t window = p.options.window;
  for (std::int64_t i = query; i >= 0; i = p.rows.parents[p.rows.q_start[row] + i]) {
    if (window < 0 || depth < window) sight.path |= std::uint64_t{1} << i;
    ++depth;
  }
  const std::int64_t first_new = p.rows.kv_length[row] - p.rows.q_length[row];
  if (window > 0) sight.begin = first_new + depth > window ? first_new + depth - window : 0;
  return sight;
}

inline bool is_tree(const ops::AttentionParams& p, std::int32_t row) {
  return p.rows.parents != nullptr && p.rows.parents[p.rows.q_start[row]] != kChain;
}

/// The tokens of a tree that a token of it follows, itself among them: a bit each.
inline std::uint64_t branch_of(const ops::AttentionParams& p, std::int32_t row,
                               std::int64_t query) {
  std::uint64_t branch = 0;
  for (std::int64_t i = query; i >= 0; i = p.rows.parents[p.rows.q_start[row] + i]) {
    branch |= std::uint64_t{1} << i;
  }
  return branch;
}

/// The keys that a token sees, those of a tree's branch counted as if they were all new ones.
inline core::KeyRange branch_range(const ops::AttentionParams& p, std::int32_t row,
                                   std::int64_t query) {
  if (!is_tree(p, row)) return range_of(p, row, query);
  const std::int64_t first_new = p.rows.kv_length[row] - p.rows.q_length[row];
  const std::int64_t end = first_new + std::popcount(branch_of(p, row, query));
  const std::int64_t window = p.options.window;
  return {window > 0 && end > window ? end - window : 0, end};
}

/// Where a key or value lies.
struct KeyPlaces {
  KeyPlaces(const ops::AttentionParams& params, std::int32_t row, std::int64_t head)
      : p(params), first(params.rows.kv_start[row]), page_size(params.k.dim(1)), kv_head(head) {}

  const std::byte* of(const ConstTensorView& view, std::int64_t key) const {
    const std::int64_t index = first + key / page_size;
    const std::int64_t page = p.rows.pages != nullptr ? p.rows.pages[index] : index;
    return row4(view, page, key % page_size, kv_head);
  }

  const ops::AttentionParams& p;
  std::int64_t first, page_size, kv_head;
};

/// Walks over the rows of keys or values from one key on. Pages are looked up once each.
class KeyWalk {
 public:
  KeyWalk(const KeyPlaces& places, const ConstTensorView& view, std::int64_t key)
      : places_(places), view_(view), key_(key),
        step_(view.stride(1) * static_cast<std::int64_t>(dtype_size(view.dtype))) {}

  /// The row of the next key.
  HWY_INLINE const std::byte* next() {
    if (left_ == 0) {
      at_ = places_.of(view_, key_);
      left_ = places_.page_size - key_ % places_.page_size;
    }
    const std::byte* row = at_;
    at_ += step_;
    ++key_;
    --left_;
    return row;
  }
  std::int64_t key() const { return key_; }

 private:
  KeyPlaces places_;
  const ConstTensorView& view_;
  std::int64_t key_;   // the next one
  std::int64_t step_;  // bytes between rows of a page
  std::int64_t left_ = 0;
  const std::byte* at_ = nullptr;
};

/// What lies between a product of q and k and the exponent of 2 that its weight is.
class Logits {
 public:
  /// `k_scale`: of the key head.
  Logits(const AttentionOptions& options, float k_scale)
      : scale_(hn::Set(DF(), options.scale * k_scale)), capped_(options.logit_cap > 0),
        cap_(hn::Set(DF(), options.logit_cap)),
        inverse_(hn::Set(DF(), capped_ ? 1.0f / options.logit_cap : 0.0f)) {}
  HWY_INLINE VF operator()(VF product) const {
    const VF s = hn::Mul(product, scale_);
    if (HWY_LIKELY(!capped_)) return s;
    return hn::Mul(cap_, hn::Tanh(DF(), hn::Mul(s, inverse_)));
  }

 private:
  VF scale_;
  bool capped_;
  VF cap_, inverse_;
};

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_ATTENTION_SIGHT_INL_H_
