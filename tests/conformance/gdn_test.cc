// Conformance of both forms of the gated delta rule.
#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdn : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdn, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceGdn, ::testing::ValuesIn(cuda_setups()), setup_name);

/// One problem with everything random and everything else poisoned.
struct Problem {
  Problem(Random& random, DType dtype, DType state_dtype, Layout layout, const Rows& the_rows,
          std::int64_t tokens, std::int64_t slots, std::int64_t k_dim, std::int64_t v_dim,
          bool channel_decay = false)
      : rows(the_rows) {
    const std::int64_t hk = 2;
    const std::int64_t hv = 6;
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

  Rows rows;
  Operand q, k, v, decay, beta, state, out;
  float scale;
  bool l2norm = true;
};

void expect_zero_pads(Problem& problem) {
  for (const double zero : problem.out.kernel().gather(problem.rows.tokens(true))) {
    EXPECT_EQ(zero, 0.0);
  }
}

TEST_P(ConformanceGdn, PrefillOfRaggedRows) {
  Rows rows;
  rows.add(1, 70, 3, 9);
  rows.add(71, 0, 1, 4);
  rows.add(72, 1, 0, 2);
  rows.add(73, 5, kPadIndex, 0);
  rows.add(80, 130, 5, 0);
  rows.add(210, 64, 4, 64);
  for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
    Problem problem(random, dtype(), DType::kF32, layout, rows, 276, 7, 32, 48);
    problem.poison(276, 7);
    Canary states(problem.state.kernel());
    states.allow_each(rows.slots());
    run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
    expect_conforms(problem.out, rows.tokens(), kGdnPrefillBound, dtype());
    expect_conforms(problem.state, rows.slots(), kGdnPrefillBound, dtype());
    EXPECT_TRUE(states.intact());
    expect_zero_pads(problem);
    for (const std::int64_t t : {0, 71, 78, 79, 275}) {
      EXPECT_TRUE(problem.out.kernel().is_poison({t}));
    }
  }
}

TEST_P(ConformanceGdn, StepOfRows) {
  Rows rows;
  rows.add(2, 1, 3, 9);
  rows.add(0, 1, 5, 0);
  rows.add(4, 0, 1, 4);
  rows.add(5, 1, kPadIndex, 0);
  rows.add(3, 1, 0, 1);
  for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
    Problem problem(random, dtype(), DType::kF32, layout, rows, 6, 7, 48, 32);
    problem.poison(6, 7);
    Canary states(problem.state.kernel());
    states.allow_each(rows.slots());
    run(gdn_step, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
    expect_conforms(problem.out, rows.tokens(), kGdnStepBound, dtype());
    expect_conforms(problem.state, rows.slots(), kGdnStepBound, dtype());
    EXPECT_TRUE(states.intact());
    expect_zero_pads(problem);
    for (const std::int64_t t : {1, 4}) EXPECT_TRUE(problem.out.kernel().is_poison({t}));
  }
}

TEST_P(ConformanceGdn, StateInBf16AtRest) {
  Rows rows;
  rows.add(0, 70, 1, 9);
  rows.add(70, 1, 0, 1);
  Problem problem(random, dtype(), DType::kBF16, Layout::kSliced, rows, 71, 2, 16, 32);
  run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
  // The initial state was rounded to bf16: that is the least exact input.
  expect_conforms(problem.out, rows.tokens(), kGdnPrefillBound, DType::kBF16);
  expect_conforms(problem.state, rows.slots(), kGdnPrefillBound, DType::kBF16);
  Rows steps;
  steps.add(0, 1, 1, 9);
  steps.add(70, 1, 0, 0);
  Problem step(random, dtype(), DType::kBF16, Layout::kSliced, steps, 71, 2, 16, 32);
  run(gdn_step, reference::gdn_recurrence, [&](Source s) { return step.args(s); });
  expect_conforms(step.out, steps.tokens(), kGdnStepBound, DType::kBF16);
  expect_conforms(step.state, steps.slots(), kGdnStepBound, DType::kBF16);
}

TEST_P(ConformanceGdn, EachChannelDecaysByItself) {
  Rows rows;
  rows.add(1, 70, 3, 9);
  rows.add(71, 1, 0, 2);
  rows.add(72, 5, kPadIndex, 0);
  rows.add(80, 130, 5, 0);
  rows.add(210, 64, 4, 64);
  rows.add(274, 17, 2, 5);
  for (const DType state : {DType::kF32, DType::kBF16}) {
    for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
      Problem problem(random, dtype(), state, layout, rows, 300, 7, 32, 48, true);
      problem.poison(300, 7);
      Canary states(problem.state.kernel());
      states.allow_each(rows.slots());
      run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
      const DType least = state == DType::kBF16 ? state : dtype();
      expect_conforms(problem.out, rows.tokens(), kGdnPrefillBound, least);
      expect_conforms(problem.state, rows.slots(), kGdnPrefillBound, least);
      EXPECT_TRUE(states.intact());
      expect_zero_pads(problem);
    }
  }
  Rows steps;
  steps.add(2, 1, 3, 9);
  steps.add(0, 1, 5, 0);
  steps.add(5, 1, kPadIndex, 0);
  Problem step(random, dtype(), DType::kF32, Layout::kSliced, steps, 6, 7, 48, 32, true);
  step.poison(6, 7);
  run(gdn_step, reference::gdn_recurrence, [&](Source s) { return step.args(s); });
  expect_conforms(step.out, steps.tokens(), kGdnStepBound, dtype());
  expect_conforms(step.state, steps.slots(), kGdnStepBound, dtype());
  expect_zero_pads(step);
}

TEST_P(ConformanceGdn, WithoutNormalisation) {
  Rows rows;
  rows.add(0, 67, 0, 9);
  Problem problem(random, dtype(), DType::kF32, Layout::kDense, rows, 67, 1, 16, 32);
  problem.l2norm = false;
  // Keys of length well under 1: without it beta k k^T could grow the state without bound.
  const auto small = random.values(67 * 2 * 16, -0.25, 0.25);
  problem.k = Operand(dtype(), {67, 2, 16}, Layout::kDense, small);
  run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
  expect_conforms(problem.out, rows.tokens(), kGdnPrefillBound, dtype());
  expect_conforms(problem.state, rows.slots(), kGdnPrefillBound, dtype());
}

}  // namespace
}  // namespace hybridattn::testing
