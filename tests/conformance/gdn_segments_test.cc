// Long rows over few heads, which the GPU's chunked delta rule cuts into segments.
#include "hybridattn/device_rows.h"
#include "tests/conformance/gdn_problem.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kDim = 128, kTokens = 2500, kSlots = 6, kHeads = 4;

class GdnSegments : public Conformance {
 protected:
  const OpBound& bound() { return gdn_prefill_bound(context().last_kernel_target(), dtype()); }
  GdnProblem make_problem(const Rows& rows, DType state) {
    GdnProblem problem(random, dtype(), state, Layout::kDense, rows, kTokens, kSlots, kDim, kDim,
                       false, kHeads);
    // A range for each head: the state lives for the whole row, for some segments, for some tokens.
    std::vector<double> decays;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (const double low : {-0.002, -0.05, -0.4, -2.0}) {
        decays.push_back(random.values(1, low, 0)[0]);
      }
    }
    problem.decay = Operand(DType::kF32, {kTokens, kHeads}, Layout::kDense, decays);
    return problem;
  }
  void expect_conforms_all(GdnProblem& problem) {
    problem.poison(kTokens, kSlots);
    Canary states(problem.state.kernel());
    states.allow_each(problem.rows.slots());
    run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
    const DType state = problem.state.kernel().dtype();
    const DType least = state == DType::kBF16 ? state : dtype();
    expect_conforms(problem.out, problem.rows.tokens(), bound(), least);
    expect_conforms(problem.state, problem.rows.slots(), bound(), least);
    EXPECT_TRUE(states.intact());
    expect_zero_pads(problem);
  }
};
/// The families that cut.
std::vector<Setup> setups() {
  std::vector<Setup> out;
  if (!built_with_cuda()) return out;
  for (const char* family : {"auto", "sm80"}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      out.push_back({Isa::kBaseline, 1, dtype, family});
    }
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(Cuda, GdnSegments, ::testing::ValuesIn(setups()), setup_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GdnSegments);

/// Two long rows, one of them new, between short ones and one that is padded.
Rows mixed_rows() {
  Rows rows;
  rows.add(3, 7, 1, 3);
  rows.add(10, 1400, 2, 9);
  rows.add(1420, 300, kPadIndex, 0);
  rows.add(1720, 0, 5, 4);
  rows.add(1720, 600, 4, 0);
  rows.add(2330, 128, 0, 70);
  return rows;
}

TEST_P(GdnSegments, OfLongRowsBetweenShortOnes) {
  for (const DType state : {DType::kF32, DType::kBF16}) {
    GdnProblem problem = make_problem(mixed_rows(), state);
    expect_conforms_all(problem);
  }
}

TEST_P(GdnSegments, OfOneRow) {
  Rows rows;
  rows.add(20, 2400, 3, 1);
  GdnProblem problem = make_problem(rows, DType::kF32);
  expect_conforms_all(problem);
}

/// Heads that are filled up with zeros.
TEST_P(GdnSegments, OfNarrowHeads) {
  if (GetParam().cuda_family == "sm90") GTEST_SKIP() << "its heads have 128 channels";
  Rows rows;
  rows.add(20, 1200, 3, 1);
  for (const std::int64_t v_dim : {64, 128}) {
    GdnProblem problem(random, dtype(), DType::kF32, Layout::kDense, rows, kTokens, kSlots, 64,
                       v_dim, false, kHeads);
    expect_conforms_all(problem);
  }
}

/// Keys longer than 1 let a state grow where others decay: nothing may be forgotten for its decay
/// alone.
TEST_P(GdnSegments, OfKeysAsTheyAre) {
  Rows rows;
  rows.add(0, 1500, 2, 9);
  GdnProblem problem = make_problem(rows, DType::kF32);
  problem.l2norm = false;
  problem.set_keys(random, -0.16, 0.16);
  expect_conforms_all(problem);
}

/// Rows of other numbers and lengths in one place, as a captured graph finds them.
TEST_P(GdnSegments, OfRowsThatAreRewritten) {
  auto placed = DeviceRows::create(context(), 9, static_cast<std::int32_t>(kTokens));
  ASSERT_OK(placed.status());
  std::vector<Rows> batches(3);
  batches[0].add(20, 1500, 3, 1);
  for (int i = 0; i < 5; ++i) batches[1].add(500 * i, 150, i, i);
  batches[2] = mixed_rows();
  for (const Rows& rows : batches) {
    ASSERT_OK((*placed)->write(rows.view()));
    GdnProblem problem = make_problem(rows, DType::kF32);
    problem.poison(kTokens, kSlots);
    run(gdn_prefill, reference::gdn_recurrence, [&](Source s) {
      GdnArgs args = problem.args(s);
      if (s == Source::kKernel) args.rows = (*placed)->rows();
      return args;
    });
    expect_conforms(problem.out, rows.tokens(), bound(), dtype());
    expect_conforms(problem.state, rows.slots(), bound(), dtype());
  }
}

/// A batch_invariant context gives a row the bits that it has alone.
TEST_P(GdnSegments, AreNotCutWhereTheyMustNotDependOnOthers) {
  const auto invariant = make_cuda_context(GetParam().cuda_family, true);
  GdnProblem together = make_problem(mixed_rows(), DType::kF32);
  GdnProblem alone = together;
  alone.rows = Rows();
  alone.rows.add(10, 1400, 2, 9);
  ASSERT_OK(gdn_prefill(*invariant, together.args(Source::kKernel)));
  ASSERT_OK(gdn_prefill(*invariant, alone.args(Source::kKernel)));
  EXPECT_EQ(together.out.kernel().gather(alone.rows.tokens()),
            alone.out.kernel().gather(alone.rows.tokens()));
  EXPECT_EQ(together.state.kernel().gather({2}), alone.state.kernel().gather({2}));
}

}  // namespace
}  // namespace hybridattn::testing
