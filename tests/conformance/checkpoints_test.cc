// Conformance of what gdn_prefill and causal_conv store on their way through a row.
#include "hybridattn/ops.h"
#include "tests/conformance/gdn_problem.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

/// Checkpoints that own their arrays.
struct Checkpoints {
  void add(std::int32_t of_row, std::int32_t after, std::int32_t to) {
    row.push_back(of_row);
    tokens.push_back(after);
    slot.push_back(to);
  }
  RowCheckpoints view() const {
    return {static_cast<std::int32_t>(row.size()), row.data(), tokens.data(), slot.data()};
  }
  std::vector<std::int64_t> slots() const {
    std::vector<std::int64_t> out;
    for (const std::int32_t s : slot) {
      if (s != kPadIndex) out.push_back(s);
    }
    return out;
  }

  std::vector<std::int32_t> row, tokens, slot;
};

std::vector<std::int64_t> both(std::vector<std::int64_t> a, const std::vector<std::int64_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

constexpr std::int64_t kTokens = 420, kSlots = 24;

Rows ragged_rows() {
  Rows rows;
  rows.add(1, 70, 3, 9);
  rows.add(71, 0, 1, 4);
  rows.add(72, 1, 0, 2);
  rows.add(73, 5, kPadIndex, 0);
  rows.add(80, 130, 5, 0);
  rows.add(210, 64, 4, 64);
  rows.add(275, 63, 7, 1);
  rows.add(340, 65, 8, 0);
  return rows;
}

/// Around chunk boundaries, at the ends of rows, several in one chunk; row 6 has none.
Checkpoints ragged_checkpoints() {
  Checkpoints out;
  std::int32_t slot = 10;
  for (const std::int32_t after : {1, 2, 63, 64, 65, 70}) out.add(0, after, slot++);
  out.add(2, 1, 9);
  out.add(3, 2, kPadIndex);
  out.add(4, 7, 20);
  out.add(4, 50, kPadIndex);
  out.add(4, 128, 6);
  out.add(4, 130, 2);
  out.add(5, 64, 21);
  out.add(7, 33, 22);
  out.add(7, 64, 23);
  return out;
}

class ConformanceCheckpoints : public Conformance {
 protected:
  bool forced_to_chunks() const {
    const std::string& family = GetParam().cuda_family;
    return family == "sm80" || family == "sm90";
  }
  /// Runs a problem with checkpoints, then a copy of it without: all that both write is the same.
  void expect_prefill_conforms(GdnProblem& problem, const Checkpoints& checkpoints,
                               std::int64_t tokens, std::int64_t slots, DType least) {
    problem.poison(tokens, slots);
    GdnProblem without = problem;
    Canary states(problem.state.kernel());
    const auto named = both(problem.rows.slots(), checkpoints.slots());
    states.allow_each(named);
    run(gdn_prefill, reference::gdn_recurrence, [&](Source s) {
      GdnArgs args = problem.args(s);
      args.checkpoints = checkpoints.view();
      return args;
    });
    const std::string target(context().last_kernel_target());
    const OpBound& bound = gdn_prefill_bound(target, dtype());
    expect_conforms(problem.out, problem.rows.tokens(), bound, least);
    for (const std::int64_t slot : named) {
      const ::testing::ScopedTrace trace(__FILE__, __LINE__, "slot " + std::to_string(slot));
      expect_conforms(problem.state, {slot}, bound, least);
    }
    EXPECT_TRUE(states.intact());
    expect_zero_pads(problem);
    ASSERT_OK(gdn_prefill(context(), without.args(Source::kKernel)));
    if (context().last_kernel_target() != target) return;
    EXPECT_TRUE(problem.out.kernel().memory() == without.out.kernel().memory());
    for (const std::int64_t slot : problem.rows.slots()) {
      EXPECT_EQ(problem.state.kernel().gather({slot}), without.state.kernel().gather({slot}));
    }
  }
};

std::vector<Setup> setups() {
  std::vector<Setup> out = all_setups();
  for (const Setup& setup : cuda_setups()) out.push_back(setup);
  if (!built_with_cuda()) return out;
  for (const char* family : {"sm80", "sm90"}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      out.push_back({Isa::kBaseline, 1, dtype, family});
    }
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(Table, ConformanceCheckpoints, ::testing::ValuesIn(setups()), setup_name);

TEST_P(ConformanceCheckpoints, PrefillOfRaggedRows) {
  struct Dims {
    std::int64_t k, v;
  };
  for (const Dims& dims : {Dims{32, 48}, Dims{128, 128}}) {
    if (forced_to_chunks() && dims.k != 128) continue;
    if (GetParam().cuda_family.empty() && dims.k == 128) continue;  // nothing of its own there
    for (const DType state : {DType::kF32, DType::kBF16}) {
      const Layout layout = dims.k == 128 ? Layout::kAlignedSliced : Layout::kTransposed;
      GdnProblem problem(random, dtype(), state, layout, ragged_rows(), kTokens, kSlots, dims.k,
                         dims.v, false, dims.k == 128 ? 2 : 6);
      const DType least = state == DType::kBF16 ? state : dtype();
      expect_prefill_conforms(problem, ragged_checkpoints(), kTokens, kSlots, least);
    }
  }
}

TEST_P(ConformanceCheckpoints, PrefillWhereEachChannelDecaysByItself) {
  if (forced_to_chunks()) GTEST_SKIP() << "the chunked kernels have one decay a head";
  GdnProblem problem(random, dtype(), DType::kF32, Layout::kSliced, ragged_rows(), kTokens, kSlots,
                     32, 48, true);
  expect_prefill_conforms(problem, ragged_checkpoints(), kTokens, kSlots, dtype());
}

TEST_P(ConformanceCheckpoints, PrefillAfterEachToken) {
  Rows rows;
  rows.add(0, 131, 131, 5);
  Checkpoints all;
  for (std::int32_t after = 1; after <= 131; ++after) all.add(0, after, after - 1);
  const std::int64_t dim = GetParam().cuda_family == "sm90" ? 128 : forced_to_chunks() ? 64 : 32;
  GdnProblem problem(random, dtype(), DType::kF32, Layout::kDense, rows, 131, 132, dim, dim, false,
                     2);
  expect_prefill_conforms(problem, all, 131, 132, dtype());
}

/// So few heads and so many tokens that a GPU cuts the row into segments.
TEST_P(ConformanceCheckpoints, PrefillOfALongRow) {
  if (GetParam().cuda_family.empty() || GetParam().cuda_family == "smxx") {
    GTEST_SKIP() << "rows are not cut";
  }
  constexpr std::int32_t kLong = 1152;
  Rows rows;
  rows.add(0, kLong, 1, 9);
  Checkpoints few;
  few.add(0, 3, 0);
  few.add(0, 128, 2);
  few.add(0, 300, 3);
  few.add(0, 647, 4);
  few.add(0, kLong, 5);
  GdnProblem problem(random, dtype(), DType::kF32, Layout::kDense, rows, kLong, 6, 128, 128, false,
                     2);
  expect_prefill_conforms(problem, few, kLong, 6, dtype());
}

TEST_P(ConformanceCheckpoints, ConvolutionOfRaggedRows) {
  if (forced_to_chunks()) GTEST_SKIP() << "the convolution has one kernel";
  Rows rows = ragged_rows();
  Checkpoints checkpoints = ragged_checkpoints();
  for (const std::int64_t width : {2, 3, 4}) {
    for (const std::int64_t channels : {5, 152}) {
      const Layout layout = channels == 5 ? Layout::kSliced : Layout::kAlignedSliced;
      Operand x(dtype(), {kTokens, channels}, layout, random.values(kTokens * channels, -2, 2));
      Operand weight(dtype(), {channels, width}, Layout::kDense,
                     random.values(channels * width, -1, 1));
      Operand state(dtype(), {kSlots, channels, width - 1}, Layout::kSliced,
                    random.values(kSlots * channels * (width - 1), -2, 2));
      Operand out(dtype(), {kTokens, channels}, layout);
      state.poison(both(checkpoints.slots(), {5, 8}));  // the fresh rows' too
      Operand state_without = state, out_without = out;
      Canary states(state.kernel());
      const auto named = both(rows.slots(), checkpoints.slots());
      states.allow_each(named);
      const auto args_of = [&](Source s, Operand& states_of, Operand& out_of, bool with) {
        CausalConvArgs args{rows.view(), x(s), weight(s), states_of(s), out_of(s)};
        if (with) args.checkpoints = checkpoints.view();
        return args;
      };
      run(causal_conv, reference::causal_conv,
          [&](Source s) { return args_of(s, state, out, true); });
      expect_conforms(out, rows.tokens(), kCausalConvBound, dtype());
      for (const std::int64_t slot : named) {
        const ::testing::ScopedTrace trace(__FILE__, __LINE__, "slot " + std::to_string(slot));
        expect_conforms(state, {slot}, kCausalConvBound, dtype());
      }
      EXPECT_TRUE(states.intact());
      ASSERT_OK(
          causal_conv(context(), args_of(Source::kKernel, state_without, out_without, false)));
      EXPECT_TRUE(out.kernel().memory() == out_without.kernel().memory());
      for (const std::int64_t slot : rows.slots()) {
        EXPECT_EQ(state.kernel().gather({slot}), state_without.kernel().gather({slot}));
      }
    }
  }
}

/// A call of two rows and padding whose checkpoints are about to be spoiled.
class CheckpointErrors : public ::testing::Test {
 protected:
  void SetUp() override {
    rows.add(0, 4, 2, 3);
    rows.add(4, 6, 0, 0);
    rows.add(10, 2, kPadIndex, 0);
    problem = std::make_unique<GdnProblem>(random, DType::kF32, DType::kF32, Layout::kDense, rows,
                                           12, 8, 16, 16);
  }
  Status prefill(const Checkpoints& checkpoints) {
    GdnArgs args = problem->args(Source::kKernel);
    args.checkpoints = checkpoints.view();
    return gdn_prefill(*context, args);
  }
  static Checkpoints of(std::initializer_list<std::array<std::int32_t, 3>> list) {
    Checkpoints out;
    for (const auto& [row, tokens, slot] : list) out.add(row, tokens, slot);
    return out;
  }

  std::unique_ptr<Context> context = make_test_context();
  Random random{7};
  Rows rows;
  std::unique_ptr<GdnProblem> problem;
};

TEST_F(CheckpointErrors, AreNamedAndNothingIsWritten) {
  const Canary states(problem->state.kernel()), outputs(problem->out.kernel());
  EXPECT_ERROR(prefill(of({{3, 1, 5}})), kOutOfRange, "checkpoints.row[0] is 3", "[0, 3)");
  EXPECT_ERROR(prefill(of({{-1, 1, 5}})), kOutOfRange, "checkpoints.row[0] is -1");
  EXPECT_ERROR(prefill(of({{1, 1, 5}, {0, 1, 6}})), kInvalidArgument, "checkpoints.row[1]", "0",
               "after 1");
  EXPECT_ERROR(prefill(of({{0, 0, 5}})), kOutOfRange, "checkpoints.tokens[0] is 0", "1 to 4");
  EXPECT_ERROR(prefill(of({{1, 7, 5}})), kOutOfRange, "checkpoints.tokens[0] is 7", "1 to 6");
  EXPECT_ERROR(prefill(of({{1, 3, 5}, {1, 3, 6}})), kInvalidArgument, "checkpoints.tokens[1] is 3",
               "must rise");
  EXPECT_ERROR(prefill(of({{1, 3, 8}})), kOutOfRange, "checkpoints.slot[0] is 8", "[0, 8)");
  EXPECT_ERROR(prefill(of({{1, 3, 2}})), kInvalidArgument, "slot[0] is 2", "row 0");
  EXPECT_ERROR(prefill(of({{0, 3, 5}, {1, 3, 5}})), kInvalidArgument, "slot[1] and [0] are 5");
  EXPECT_ERROR(prefill(of({{2, 1, 5}})), kInvalidArgument, "slot[0] is 5", "row 2");
  GdnArgs args = problem->args(Source::kKernel);
  args.checkpoints.count = -1;
  EXPECT_ERROR(gdn_prefill(*context, args), kInvalidArgument, "checkpoints.count is -1");
  args.checkpoints.count = 1;
  EXPECT_ERROR(gdn_prefill(*context, args), kInvalidArgument, "checkpoints.row");
  EXPECT_TRUE(states.intact());
  EXPECT_TRUE(outputs.intact());
  EXPECT_OK(prefill(of({{0, 4, 5}, {1, 1, kPadIndex}, {1, 6, 6}, {2, 1, kPadIndex}})));
}

TEST_F(CheckpointErrors, OpsWithoutThemRefuseThem) {
  const Checkpoints some = of({{0, 1, 5}});
  Rows one;
  one.add(0, 1, 2, 3);
  problem->rows = one;
  GdnArgs args = problem->args(Source::kKernel);
  args.checkpoints = some.view();
  EXPECT_ERROR(gdn_step(*context, args), kUnsupported, "gdn_step", "checkpoints.count is 1");
  const std::int32_t kept = 0;
  Buffer kept_states(DType::kF32, {4, 6, 16, 16}), kept_windows(DType::kF32, {4, 5, 3});
  EXPECT_ERROR(gdn_verify(*context, {args, {&kept}, kept_states.view()}), kUnsupported,
               "gdn_verify", "checkpoints.count is 1");
  Buffer x(DType::kF32, {1, 5}), out(DType::kF32, {1, 5}), windows(DType::kF32, {6, 5, 3});
  Buffer weight(DType::kF32, {5, 4});
  CausalConvArgs conv{one.view(), x.view(), weight.view(), windows.view(), out.view()};
  conv.checkpoints = some.view();
  EXPECT_ERROR(causal_conv_verify(*context, {conv, {&kept}, kept_windows.view()}), kUnsupported,
               "causal_conv_verify", "checkpoints.count is 1");
  conv.checkpoints.slot = &one.slot[0];
  EXPECT_ERROR(causal_conv(*context, conv), kInvalidArgument, "checkpoints.slot[0] is 2", "row 0");
}

TEST(CheckpointFamilies, TheOneKernelRefusesThem) {
  if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
  const auto fused = make_cuda_context("sm90_fused");
  Random random(3);
  Rows rows;
  rows.add(0, 70, 0, 0);
  GdnProblem problem(random, DType::kBF16, DType::kF32, Layout::kDense, rows, 70, 2, 128, 128);
  Checkpoints one;
  one.add(0, 9, 1);
  GdnArgs args = problem.args(Source::kKernel);
  ASSERT_OK(gdn_prefill(*fused, args));
  args.checkpoints = one.view();
  EXPECT_ERROR(gdn_prefill(*fused, args), kUnsupported, "sm90_fused is forced", "no checkpoints");
}

}  // namespace
}  // namespace hybridattn::testing
