// Conformance of the chunked delta rule at the head size of the models at hand.
#include "tests/conformance/gdn_problem.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdnChunks : public Conformance {
 protected:
  /// What the kernel that ran is held to.
  const OpBound& bound() { return gdn_prefill_bound(context().last_kernel_target(), dtype()); }
  /// Runs the problem, whose state is float32, with all poisoned that it must not read.
  void expect_prefill_conforms(GdnProblem& problem);
};

/// The kernels that newer devices take for want of their own, and one that few rows are not given.
void add_families(std::vector<Setup>& out) {
  if (!built_with_cuda()) return;
  for (const char* family : {"sm80", "sm90_fused"}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      out.push_back({Isa::kBaseline, 1, dtype, family});
    }
  }
}

std::vector<Setup> setups() {
  std::vector<Setup> out = cuda_setups();
  add_families(out);
  for (const DType dtype : {DType::kF32, DType::kBF16}) out.push_back({best_isa(), 2, dtype});
  // The same products in tiles and in vectors.
  if (isa_supported(Isa::kAmx)) out.push_back({Isa::kAvx512Bf16, 1, DType::kBF16});
  return out;
}
INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdnChunks, ::testing::ValuesIn(setups()), setup_name);

/// The same problem again and again.
class GdnChunksAgain : public Conformance {};
std::vector<Setup> again_setups() {
  std::vector<Setup> out = cuda_setups();
  add_families(out);
  return out;
}
INSTANTIATE_TEST_SUITE_P(Cuda, GdnChunksAgain, ::testing::ValuesIn(again_setups()), setup_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GdnChunksAgain);

constexpr std::int64_t kDim = 128, kTokens = 420, kSlots = 9;

void ConformanceGdnChunks::expect_prefill_conforms(GdnProblem& problem) {
  problem.poison(kTokens, kSlots);
  run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
  expect_conforms(problem.out, problem.rows.tokens(), bound(), dtype());
  expect_conforms(problem.state, problem.rows.slots(), bound(), dtype());
}

GdnProblem make_problem(Random& random, DType dtype, DType state, std::int64_t heads,
                        const Rows& rows, Layout layout = Layout::kDense) {
  return GdnProblem(random, dtype, state, layout, rows, kTokens, kSlots, kDim, kDim, false, heads);
}

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
      GdnProblem problem = make_problem(random, dtype(), state, heads, rows);
      problem.poison(kTokens, kSlots);
      Canary states(problem.state.kernel());
      states.allow_each(rows.slots());
      run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
      const DType least = state == DType::kBF16 ? state : dtype();
      expect_conforms(problem.out, rows.tokens(), bound(), least);
      expect_conforms(problem.state, rows.slots(), bound(), least);
      EXPECT_TRUE(states.intact());
      expect_zero_pads(problem);
      for (const std::int64_t t : {0, 71, 78, 274, 338, 419}) {
        EXPECT_TRUE(problem.out.kernel().is_poison({t}));
      }
    }
  }
}

/// Heads of 64 channels, in tiles that have room for 128.
TEST_P(ConformanceGdnChunks, OfNarrowHeads) {
  Rows rows;
  rows.add(1, 70, 3, 9);
  rows.add(72, 1, 0, 2);
  rows.add(73, 5, kPadIndex, 0);
  rows.add(80, 130, 5, 0);
  rows.add(210, 64, 4, 64);
  rows.add(275, 63, 7, 1);
  struct Dims {
    std::int64_t k, v;
  };
  for (const Dims& dims : {Dims{64, 64}, Dims{64, 128}, Dims{128, 64}}) {
    for (const Layout layout : {Layout::kDense, Layout::kAlignedSliced}) {
      const DType state = layout == Layout::kDense ? DType::kBF16 : DType::kF32;
      GdnProblem problem(random, dtype(), state, layout, rows, kTokens, kSlots, dims.k, dims.v);
      if (GetParam().cuda_family == "sm90_fused") {
        EXPECT_ERROR(gdn_prefill(context(), problem.args(Source::kKernel)), kUnsupported,
                     "sm90_fused is forced", "K = V = 128");
        continue;
      }
      problem.poison(kTokens, kSlots);
      Canary states(problem.state.kernel());
      states.allow_each(rows.slots());
      run(gdn_prefill, reference::gdn_recurrence, [&](Source s) { return problem.args(s); });
      const DType least = state == DType::kBF16 ? state : dtype();
      expect_conforms(problem.out, rows.tokens(), bound(), least);
      expect_conforms(problem.state, rows.slots(), bound(), least);
      EXPECT_TRUE(states.intact());
      expect_zero_pads(problem);
      if (GetParam().cuda_family == "auto" && dtype() != DType::kF32) {
        EXPECT_EQ(context().last_kernel_target(), "sm80");
      }
    }
  }
}

/// Keys that almost agree make I + L nearly singular in its corner: the solve must be exact.
TEST_P(ConformanceGdnChunks, OfNearlyParallelKeys) {
  Rows rows;
  rows.add(0, 200, 2, 9);
  GdnProblem problem = make_problem(random, dtype(), DType::kF32, 2, rows);
  problem.set_keys(random, 0.9, 1);
  expect_prefill_conforms(problem);
}

/// Tensors that are slices of wider ones, with more heads on a key head than are prepared at once.
TEST_P(ConformanceGdnChunks, OfStridedTensors) {
  Rows rows;
  rows.add(3, 150, 2, 9);
  rows.add(160, 77, 4, 0);
  for (const Layout layout : {Layout::kAlignedSliced, Layout::kAlignedTransposed}) {
    GdnProblem problem = make_problem(random, dtype(), DType::kF32, 12, rows, layout);
    expect_prefill_conforms(problem);
    if (dtype() != DType::kF32 && GetParam().cuda_family == "auto") {
      EXPECT_NE(context().last_kernel_target(), "smxx") << "the chunked kernels serve it";
    }
  }
}

/// Heads that are not aligned are nothing for kernels that move 16 bytes at once.
TEST_P(ConformanceGdnChunks, OfUnalignedTensors) {
  Rows rows;
  rows.add(3, 150, 2, 9);
  for (const Layout layout : {Layout::kSliced, Layout::kTransposed}) {
    GdnProblem problem = make_problem(random, dtype(), DType::kF32, 2, rows, layout);
    const std::string& family = GetParam().cuda_family;
    if (family == "sm80" || family == "sm90_fused") {
      EXPECT_ERROR(gdn_prefill(context(), problem.args(Source::kKernel)), kUnsupported,
                   family + " is forced", "aligned to 16 bytes");
    } else {
      expect_prefill_conforms(problem);
    }
  }
}

/// Keys that are not normalised, most of them shorter than 1 and some longer.
TEST_P(ConformanceGdnChunks, OfKeysAsTheyAre) {
  Rows rows;
  rows.add(0, 200, 2, 9);
  GdnProblem problem = make_problem(random, dtype(), DType::kF32, 4, rows);
  problem.l2norm = false;
  problem.set_keys(random, -0.16, 0.16);
  expect_prefill_conforms(problem);
}

/// Both halves in one kernel give the bits of the two, and are taken where rows and heads are many.
TEST_P(GdnChunksAgain, OneKernelGivesTheBitsOfTwo) {
  if (GetParam().cuda_family != "sm90_fused") return;
  const auto two = make_cuda_context("sm90", true), chosen = make_cuda_context();
  Rows rows;
  for (int i = 0; i < 6; ++i) rows.add(70 * i, i < 4 ? 65 + i : i - 3, i, i);
  GdnProblem problem = make_problem(random, dtype(), DType::kF32, 66, rows);
  GdnProblem same = problem, third = problem;
  ASSERT_OK(gdn_prefill(context(), problem.args(Source::kKernel)));
  ASSERT_OK(gdn_prefill(*two, same.args(Source::kKernel)));
  ASSERT_OK(gdn_prefill(*chosen, third.args(Source::kKernel)));
  EXPECT_EQ(context().last_kernel_target(), "sm90_fused");
  EXPECT_EQ(two->last_kernel_target(), "sm90");
  EXPECT_EQ(chosen->last_kernel_target(), "sm90_fused");
  for (GdnProblem* other : {&same, &third}) {
    EXPECT_TRUE(problem.out.kernel().memory() == other->out.kernel().memory());
    EXPECT_TRUE(problem.state.kernel().memory() == other->state.kernel().memory());
  }
}

TEST_P(GdnChunksAgain, AThousandRunsAreOne) {
  Rows rows;
  rows.add(0, 200, 2, 9);
  rows.add(200, 33, 1, 0);
  GdnProblem problem = make_problem(random, dtype(), DType::kF32, 4, rows);
  const Bytes before = problem.state.kernel().memory();
  ASSERT_OK(gdn_prefill(context(), problem.args(Source::kKernel)));
  const Bytes out = problem.out.kernel().memory(), state = problem.state.kernel().memory();
  for (int i = 0; i < 1000; ++i) {
    std::copy(before.begin(), before.end(), problem.state.kernel().memory().begin());
    ASSERT_OK(gdn_prefill(context(), problem.args(Source::kKernel)));
    ASSERT_EQ(problem.out.kernel().memory(), out) << "run " << i;
    ASSERT_EQ(problem.state.kernel().memory(), state) << "run " << i;
  }
}

}  // namespace
}  // namespace hybridattn::testing
