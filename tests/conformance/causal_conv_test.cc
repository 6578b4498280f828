// Conformance of the causal convolution.
#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceCausalConv : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceCausalConv, ::testing::ValuesIn(all_setups()),
                         setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceCausalConv, ::testing::ValuesIn(cuda_setups()),
                         setup_name);

constexpr std::int64_t kSlots = 9;
constexpr std::int64_t kTokens = 90;

/// Rows of many lengths with gaps between: tokens 0, 11, 12 and the last ones belong to nobody.
Rows ragged_rows() {
  Rows rows;
  rows.add(1, 10, 4, 7);
  rows.add(13, 1, 0, 1);
  rows.add(14, 0, 2, 5);
  rows.add(14, 2, 8, 0);
  rows.add(16, 3, kPadIndex, 0);
  rows.add(19, 3, 1, 3);
  rows.add(22, 65, 3, 0);
  return rows;
}

std::vector<std::int64_t> others(const std::vector<std::int64_t>& named, std::int64_t count) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::find(named.begin(), named.end(), i) == named.end()) out.push_back(i);
  }
  return out;
}

TEST_P(ConformanceCausalConv, RaggedRowsOfEveryWidth) {
  const Rows rows = ragged_rows();
  for (const std::int64_t width : {2, 3, 4}) {
    for (const std::int64_t channels : {5, 150}) {
      const bool silu = width != 3;
      Operand x(dtype(), {kTokens, channels}, Layout::kSliced,
                random.values(kTokens * channels, -2, 2));
      Operand weight(dtype(), {channels, width}, Layout::kSliced,
                     random.values(channels * width, -1, 1));
      Operand state(dtype(), {kSlots, channels, width - 1}, Layout::kSliced,
                    random.values(kSlots * channels * (width - 1), -2, 2));
      Operand out(dtype(), {kTokens, channels}, Layout::kSliced);
      x.poison(others(rows.tokens(), kTokens));
      state.poison({8, 3, 5, 6, 7});  // the fresh rows' slots and the free ones
      Canary states(state.kernel());
      states.allow_each(rows.slots());
      run(causal_conv, reference::causal_conv, [&](Source s) {
        return CausalConvArgs{rows.view(), x(s), weight(s), state(s), out(s), silu};
      });
      expect_conforms(out, rows.tokens(), kCausalConvBound, dtype());
      expect_conforms(state, rows.slots(), kCausalConvBound, dtype());
      EXPECT_TRUE(states.intact());
      for (const double zero : out.kernel().gather(rows.tokens(true))) EXPECT_EQ(zero, 0.0);
      for (const std::int64_t t : {0, 11, 12, 87, 89}) EXPECT_TRUE(out.kernel().is_poison({t}));
    }
  }
}

TEST_P(ConformanceCausalConv, TokenByTokenIsTheSameBits) {
  const std::int64_t channels = 70;
  Operand x(dtype(), {9, channels}, Layout::kDense, random.values(9 * channels, -2, 2));
  Operand weight(dtype(), {channels, 4}, Layout::kDense, random.values(channels * 4, -1, 1));
  const auto initial = random.values(channels * 3, -2, 2);
  Operand whole_state(dtype(), {1, channels, 3}, Layout::kDense, initial);
  Operand step_state(dtype(), {1, channels, 3}, Layout::kDense, initial);
  Buffer whole(dtype(), {9, channels});
  Buffer steps(dtype(), {9, channels});
  Rows rows;
  rows.add(0, 9, 0, 3);
  ASSERT_OK(causal_conv(context(), {rows.view(), x.kernel().view(), weight.kernel().view(),
                                    whole_state.kernel().view(), whole.view()}));
  for (std::int32_t t = 0; t < 9; ++t) {
    Rows row;
    row.add(t, 1, 0, 3 + t);
    ASSERT_OK(causal_conv(context(), {row.view(), x.kernel().view(), weight.kernel().view(),
                                      step_state.kernel().view(), steps.view()}));
  }
  EXPECT_EQ(whole.memory(), steps.memory());
  EXPECT_EQ(whole_state.kernel().memory(), step_state.kernel().memory());
}

}  // namespace
}  // namespace hybridattn::testing
