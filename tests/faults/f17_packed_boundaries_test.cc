// F17: boundaries of packed sequences off the chunk grid, each with a state of its own.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F17PackedBoundaries, OneDescriptorFeedsConvolutionAndDeltaRule) {
  const std::vector<std::int32_t> cuts{0, 37, 101, 165};
  for (const auto& context : all_contexts()) {
    GdnCase::Dims dims;
    dims.tokens = 165;
    dims.slots = 3;
    GdnCase c(dims);
    Random random(4);
    std::vector<double> gates;
    for (int t = 0; t < 165; ++t) gates.push_back(t == 36 || t == 100 ? -30.0 : -0.01);
    c.set_token_gates(gates);
    const std::int64_t channels = 2 * 2 * 16 + 4 * 32;
    Operand x(DType::kF32, {165, channels}, Layout::kDense, random.values(165 * channels, -1, 1));
    Operand w(DType::kF32, {channels, 4}, Layout::kDense, random.values(channels * 4, -1, 1));
    Operand window(DType::kF32, {3, channels, 3}, Layout::kDense,
                   random.values(9 * channels, -1, 1));
    Operand mixed(DType::kF32, {165, channels}, Layout::kDense);
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      c.rows.add(cuts[i], cuts[i + 1] - cuts[i], static_cast<std::int32_t>(2 - i), 11);
    }
    const auto conv_args = [&](Source s) {
      return CausalConvArgs{c.rows.view(), x(s), w(s), window(s), mixed(s)};
    };
    const auto gdn_args = [&](Source s) {
      GdnArgs args = c.args(s);
      const TensorView all = mixed(s);
      args.q = all.at(0, {165, 2, 16}, {channels, 16, 1});
      args.k = all.at(32, {165, 2, 16}, {channels, 16, 1});
      args.v = all.at(64, {165, 4, 32}, {channels, 32, 1});
      return args;
    };
    ASSERT_OK(causal_conv(*context, conv_args(Source::kKernel)));
    ASSERT_OK(gdn_prefill(*context, gdn_args(Source::kKernel)));
    reference::causal_conv(conv_args(Source::kRounded));
    reference::gdn_recurrence(gdn_args(Source::kRounded));
    c.expect_as_oracle(2e-6, 2e-5);
  }
}

}  // namespace
}  // namespace hybridattn::testing
