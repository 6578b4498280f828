// Conformance of both forms of the gated delta rule.
#include "tests/conformance/gdn_problem.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdn : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdn, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceGdn, ::testing::ValuesIn(cuda_setups()), setup_name);

TEST_P(ConformanceGdn, PrefillOfRaggedRows) {
  Rows rows;
  rows.add(1, 70, 3, 9);
  rows.add(71, 0, 1, 4);
  rows.add(72, 1, 0, 2);
  rows.add(73, 5, kPadIndex, 0);
  rows.add(80, 130, 5, 0);
  rows.add(210, 64, 4, 64);
  for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
    GdnProblem problem(random, dtype(), DType::kF32, layout, rows, 276, 7, 32, 48);
    problem.poison(276, 7);
    Canary states(problem.state.kernel());
    states.allow_each(rows.slots());
    run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
    const OpBound& bound = gdn_prefill_bound(context().last_kernel_target(), dtype());
    expect_conforms(problem.out, rows.tokens(), bound, dtype());
    expect_conforms(problem.state, rows.slots(), bound, dtype());
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
    GdnProblem problem(random, dtype(), DType::kF32, layout, rows, 6, 7, 48, 32);
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
  GdnProblem problem(random, dtype(), DType::kBF16, Layout::kSliced, rows, 71, 2, 16, 32);
  run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
  // The initial state was rounded to bf16: that is the least exact input.
  expect_conforms(problem.out, rows.tokens(), kGdnPrefillBound, DType::kBF16);
  expect_conforms(problem.state, rows.slots(), kGdnPrefillBound, DType::kBF16);
  Rows steps;
  steps.add(0, 1, 1, 9);
  steps.add(70, 1, 0, 0);
  GdnProblem step(random, dtype(), DType::kBF16, Layout::kSliced, steps, 71, 2, 16, 32);
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
      GdnProblem problem(random, dtype(), state, layout, rows, 300, 7, 32, 48, true);
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
  GdnProblem step(random, dtype(), DType::kF32, Layout::kSliced, steps, 6, 7, 48, 32, true);
  step.poison(6, 7);
  run(gdn_step, reference::gdn_recurrence, [&](Source s) { return step.args(s); });
  expect_conforms(step.out, steps.tokens(), kGdnStepBound, dtype());
  expect_conforms(step.state, steps.slots(), kGdnStepBound, dtype());
  expect_zero_pads(step);
}

TEST_P(ConformanceGdn, WithoutNormalisation) {
  Rows rows;
  rows.add(0, 67, 0, 9);
  GdnProblem problem(random, dtype(), DType::kF32, Layout::kDense, rows, 67, 1, 16, 32);
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
