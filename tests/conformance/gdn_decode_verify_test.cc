// Conformance of a Gated DeltaNet layer over drafted tokens, and that it is decoding, to the bit.
#include "tests/conformance/draft_rows.h"
#include "tests/conformance/gdn_layer_problem.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceGdnDecodeVerify : public ConformanceDrafts {
 protected:
  GdnDecodeVerifyArgs args(GdnLayerProblem& problem, const GdnLayerCase& c, Operand& states,
                           Operand& windows, Source s) const {
    return {problem.args(s, c), verify(), states(s), windows(s)};
  }
  static Operand kept_states(const GdnLayerCase& c) {
    return Operand(c.state, {kKept, c.hv, c.v_dim, c.k_dim}, c.layout);
  }
  Operand kept_windows(const GdnLayerCase& c) {
    return Operand(dtype(), {kKept, 2 * c.hk * c.k_dim + c.hv * c.v_dim, c.width - 1},
                   Layout::kDense);
  }
};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdnDecodeVerify, ::testing::ValuesIn(all_setups()),
                         setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceGdnDecodeVerify, ::testing::ValuesIn(cuda_setups()),
                         setup_name);

TEST_P(ConformanceGdnDecodeVerify, IsTheOpsInOne) {
  for (const GdnLayerCase& c : gdn_layer_cases(on_cuda())) {
    GdnLayerProblem problem(random, dtype(), c, rows, kTokens);
    Operand states = kept_states(c), windows = kept_windows(c);
    const Canary pool(problem.state.kernel()), pool_windows(problem.windows.kernel());
    run(gdn_decode_verify, reference::gdn_decode_verify,
        [&](Source s) { return args(problem, c, states, windows, s); });
    EXPECT_TRUE(pool.intact() && pool_windows.intact()) << "the pools are only read";
    const bool rounded = c.state == DType::kBF16;
    const OpBound& bound = rounded ? kGdnDraftsBF16Bound : kGdnDecodeBound;
    expect_conforms(problem.out, rows.tokens(), bound, rounded ? c.state : dtype());
    expect_conforms(states, named(), bound, rounded ? c.state : dtype());
    expect_conforms(windows, named(), kStoreKvBound, dtype());
    for (const double zero : problem.out.kernel().gather({12, 13})) EXPECT_EQ(zero, 0.0);
    for (const std::int64_t t : {0, 17}) EXPECT_TRUE(problem.out.kernel().is_poison({t}));
    for (const std::int64_t slot : unnamed()) {
      EXPECT_TRUE(states.kernel().is_poison({slot}) && windows.kernel().is_poison({slot}));
    }
  }
}

TEST_P(ConformanceGdnDecodeVerify, IsDecodingToTheBit) {
  for (const GdnLayerCase& c : gdn_layer_cases(on_cuda())) {
    GdnLayerProblem problem(random, dtype(), c, rows, kTokens);
    Operand states = kept_states(c), windows = kept_windows(c);
    ASSERT_OK(gdn_decode_verify(context(), args(problem, c, states, windows, Source::kKernel)));
    const auto drafted = problem.out.kernel().gather(rows.tokens());
    // The chain and the fresh row, token after token in their slots.
    for (std::int32_t i = 0; i < 5; ++i) {
      Rows steps;
      steps.add(1 + i, 1, 2, 9 + i);
      if (i < 3) steps.add(14 + i, 1, 6, i);
      GdnDecodeArgs decode = problem.args(Source::kKernel, c);
      decode.rows = steps.view();
      ASSERT_OK(gdn_decode(context(), decode));
      EXPECT_EQ(problem.state.kernel().gather({2}), states.kernel().gather({12 + i})) << i;
      EXPECT_EQ(problem.windows.kernel().gather({2}), windows.kernel().gather({12 + i})) << i;
      if (i >= 3) continue;
      EXPECT_EQ(problem.state.kernel().gather({6}), states.kernel().gather({7 + i})) << i;
    }
    EXPECT_EQ(problem.out.kernel().gather(rows.tokens()), drafted);
  }
}

TEST(GdnDecodeVerifyTest, WrongOnesAreNamed) {
  const auto context = make_context();
  Random random(1);
  GdnLayerCase c;
  c.k_dim = c.v_dim = 16;
  Rows rows;
  rows.add(0, 3, 1, 4);
  GdnLayerProblem problem(random, DType::kF32, c, rows, 3);
  Buffer states(DType::kF32, {3, c.hv, 16, 16}), windows(DType::kF32, {3, 128, 3});
  Buffer bf16(DType::kBF16, {3, 128, 3});
  const auto call = [&](std::int32_t first, std::vector<std::int32_t> parents, Buffer& kept_conv) {
    return gdn_decode_verify(*context, {problem.args(Source::kKernel, c),
                                        {&first, parents.data()},
                                        states.view(),
                                        kept_conv.view()});
  };
  EXPECT_ERROR(call(1, {kChain}, windows), kOutOfRange, "gdn_decode_verify",
               "row 0 keeps 3 states from slot 1", "[0, 3)");
  EXPECT_ERROR(call(0, {-1, 1, 0}, windows), kOutOfRange, "token 1 follows token 1");
  EXPECT_ERROR(call(0, {kChain}, bf16), kInvalidArgument, "kept_conv has dtype bf16",
               "that of conv_state: f32");
  EXPECT_ERROR(call(0, {kChain}, states), kInvalidArgument, "kept_conv");
  EXPECT_TRUE(states.is_poison({}) && windows.is_poison({}));
  EXPECT_OK(call(0, {kChain}, windows));
}

}  // namespace
}  // namespace hybridattn::testing
