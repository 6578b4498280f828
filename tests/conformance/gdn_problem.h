// A random problem for both forms of the gated delta rule.
#pragma once

#include <algorithm>
#include <cmath>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {

/// One problem with everything random and everything else poisoned.
struct GdnProblem {
  GdnProblem(Random& random, DType dtype, DType state_dtype, Layout layout, const Rows& the_rows,
             std::int64_t tokens, std::int64_t slots, std::int64_t k_dim, std::int64_t v_dim,
             bool channel_decay = false, std::int64_t hv = 6)
      : rows(the_rows) {
    const std::int64_t hk = kKeyHeads;
    q = Operand(dtype, {tokens, hk, k_dim}, layout, random.values(tokens * hk * k_dim, -1, 1));
    k = Operand(dtype, {tokens, hk, k_dim}, layout, random.values(tokens * hk * k_dim, -1, 1));
    v = Operand(dtype, {tokens, hv, v_dim}, layout, random.values(tokens * hv * v_dim, -1, 1));
    const Layout gates = layout == Layout::kDense ? Layout::kDense : Layout::kSliced;
    const std::int64_t channels = channel_decay ? k_dim : 1;
    const Shape decays = channel_decay ? Shape{tokens, hv, k_dim} : Shape{tokens, hv};
    decay = Operand(DType::kF32, decays, gates, real_gates(random, tokens * hv * channels));
    beta = Operand(DType::kF32, {tokens, hv}, gates, random.values(tokens * hv, 0, 1));
    state = Operand(state_dtype, {slots, hv, v_dim, k_dim}, layout,
                    random.values(slots * hv * v_dim * k_dim, -0.5, 0.5));
    out = Operand(dtype, {tokens, hv, v_dim}, layout);
    scale = 1.0f / std::sqrt(static_cast<float>(k_dim));
  }

  GdnArgs args(Source s) {
    return {rows.view(), q(s), k(s), v(s), decay(s), beta(s), state(s), out(s), scale, l2norm};
  }
  /// Other keys, dense, of components between `low` and `high`.
  void set_keys(Random& random, double low, double high) {
    const DType dtype = k.kernel().dtype();
    const TensorView view = k.kernel().view();
    const Shape shape{view.shape[0], view.shape[1], view.shape[2]};
    k = Operand(dtype, shape, Layout::kDense,
                random.values(shape[0] * shape[1] * shape[2], low, high));
  }
  /// Poisons all tokens and slots that must not be read.
  void poison(std::int64_t tokens, std::int64_t slots) {
    const auto named = rows.tokens();
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (std::find(named.begin(), named.end(), t) != named.end()) continue;
      for (Operand* operand : {&q, &k, &v, &decay, &beta}) operand->poison({t});
    }
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      bool read = false;
      for (std::size_t r = 0; r < rows.slot.size(); ++r) {
        read = read || (rows.slot[r] == slot && rows.computed[r] > 0);
      }
      if (!read) state.poison({slot});
    }
  }

  static constexpr std::int64_t kKeyHeads = 2;

  Rows rows;
  Operand q, k, v, decay, beta, state, out;
  float scale;
  bool l2norm = true;
};

inline void expect_zero_pads(GdnProblem& problem) {
  for (const double zero : problem.out.kernel().gather(problem.rows.tokens(true))) {
    EXPECT_EQ(zero, 0.0);
  }
}

}  // namespace hybridattn::testing
