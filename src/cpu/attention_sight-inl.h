// Which keys a query sees.
#include <cstdint>

#include "hwy/highway.h"
#include "src/core/formulas.h"
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

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_ATTENTION_SIGHT_INL_H_
