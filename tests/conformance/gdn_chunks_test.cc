// Conformance of the chunked delta rule at the head size of the models at hand.
#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdnChunks : public Conformance {
 protected:
  /// What the kernel that ran is held to.
  const OpBound& bound() {
    if (context().last_kernel_target() != "sm90") return kGdnPrefillBound;
    return dtype() == DType::kBF16 ? kGdnChunksBF16Bound : kGdnChunksF16Bound;
  }
};

std::vector<Setup> setups() {
  std::vector<Setup> out = cuda_setups();
  for (const DType dtype : {DType::kF32, DType::kBF16}) out.push_back({best_isa(), 2, dtype});
  return out;
}
INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdnChunks, ::testing::ValuesIn(setups()), setup_name);

constexpr std::int64_t kDim = 128, kKeyHeads = 2, kTokens = 420, kSlots = 9;

struct Problem {
  Problem(Random& random, DType dtype, DType state_type, std::int64_t v_heads, const Rows& rows,
          double weakest_key)
      : heads(v_heads) {
    const auto values = [&](const Shape& shape, DType type, double low, double high) {
      std::int64_t count = 1;
      for (const std::int64_t d : shape) count *= d;
      return Operand(type, shape, Layout::kDense, random.values(count, low, high));
    };
    q = values({kTokens, kKeyHeads, kDim}, dtype, -1, 1);
    k = values({kTokens, kKeyHeads, kDim}, dtype, weakest_key, 1);
    v = values({kTokens, heads, kDim}, dtype, -1, 1);
    decay =
        Operand(DType::kF32, {kTokens, heads}, Layout::kDense, real_gates(random, kTokens * heads));
    beta = values({kTokens, heads}, DType::kF32, 0, 1);
    state = values({kSlots, heads, kDim, kDim}, state_type, -0.5, 0.5);
    out = Operand(dtype, {kTokens, heads, kDim}, Layout::kDense);
    const auto named = rows.tokens();
    for (std::int64_t t = 0; t < kTokens; ++t) {
      if (std::find(named.begin(), named.end(), t) != named.end()) continue;
      for (Operand* x : {&q, &k, &v, &decay, &beta}) x->poison({t});
    }
    for (std::size_t r = 0; r < rows.slot.size(); ++r) {
      if (rows.computed[r] == 0 && rows.slot[r] >= 0) state.poison({rows.slot[r]});
    }
  }
  GdnArgs args(Source s, const Rows& rows) {
    return {rows.view(), q(s), k(s), v(s), decay(s), beta(s), state(s), out(s), 0.08838834764f};
  }

  std::int64_t heads;
  Operand q, k, v, decay, beta, state, out;
};

TEST_P(ConformanceGdnChunks, OfRaggedRows) {
  Rows rows;
  rows.add(1, 70, 3, 9);
  rows.add(71, 0, 1, 4);
  rows.add(72, 1, 0, 2);
  rows.add(73, 5, kPadIndex, 0);
  rows.add(80, 130, 5, 0);
  rows.add(210, 64, 4, 64);
  rows.add(275, 63, 7, 1);
  rows.add(340, 65, 8, 0);
  for (const DType state : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t heads : {2, 6}) {
      Problem problem(random, dtype(), state, heads, rows, -1);
      Canary states(problem.state.kernel());
      states.allow_each(rows.slots());
      run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s, rows); });
      const DType least = state == DType::kBF16 ? state : dtype();
      expect_conforms(problem.out, rows.tokens(), bound(), least);
      expect_conforms(problem.state, rows.slots(), bound(), least);
      EXPECT_TRUE(states.intact());
      for (const double zero : problem.out.kernel().gather(rows.tokens(true))) EXPECT_EQ(zero, 0.0);
      for (const std::int64_t t : {0, 71, 78, 274, 338, 419}) {
        EXPECT_TRUE(problem.out.kernel().is_poison({t}));
      }
    }
  }
}

/// Keys that almost agree make I + L nearly singular in its corner: the solve must be exact.
TEST_P(ConformanceGdnChunks, OfNearlyParallelKeys) {
  Rows rows;
  rows.add(0, 200, 2, 9);
  Problem problem(random, dtype(), DType::kF32, 2, rows, 0.9);
  run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s, rows); });
  expect_conforms(problem.out, rows.tokens(), bound(), dtype());
  expect_conforms(problem.state, rows.slots(), bound(), dtype());
}

TEST_P(ConformanceGdnChunks, AThousandRunsAreOne) {
  if (GetParam().cuda_family.empty()) GTEST_SKIP() << "the CPU's are tested elsewhere";
  Rows rows;
  rows.add(0, 200, 2, 9);
  rows.add(200, 33, 1, 0);
  Problem problem(random, dtype(), DType::kF32, 4, rows, -1);
  const Bytes before = problem.state.kernel().memory();
  ASSERT_OK(gdn_prefill(context(), problem.args(Source::kKernel, rows)));
  const Bytes out = problem.out.kernel().memory(), state = problem.state.kernel().memory();
  for (int i = 0; i < 1000; ++i) {
    std::copy(before.begin(), before.end(), problem.state.kernel().memory().begin());
    ASSERT_OK(gdn_prefill(context(), problem.args(Source::kKernel, rows)));
    ASSERT_EQ(problem.out.kernel().memory(), out) << "run " << i;
    ASSERT_EQ(problem.state.kernel().memory(), state) << "run " << i;
  }
}

}  // namespace
}  // namespace hybridattn::testing
