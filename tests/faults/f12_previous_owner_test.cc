// F12: a fresh sequence must not see what its slot's former owner left there.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

/// Runs `lengths` chunks of one sequence from nothing in a poisoned slot and compares with one
/// call.
void run_chunks(Context& context, const std::vector<std::int32_t>& lengths) {
  std::int32_t total = 0;
  for (const std::int32_t n : lengths) total += n;
  GdnCase::Dims dims;
  dims.tokens = total;
  GdnCase c(dims);
  c.state.poison({0});
  std::int32_t done = 0;
  for (const std::int32_t n : lengths) {
    c.rows = {};
    c.rows.add(done, n, 0, done);
    const GdnArgs args = c.args(Source::kKernel);
    ASSERT_OK(n == 1 ? gdn_step(context, args) : gdn_prefill(context, args));
    done += n;
  }
  c.rows = {};
  c.rows.add(0, total, 0, 0);
  c.run_oracle();
  c.expect_as_oracle(2e-6, 2e-5);
}

TEST(F12PreviousOwnersState, ComputedAloneSaysWhetherAStateIsThere) {
  for (const auto& context : all_contexts()) {
    for (const auto& lengths : std::vector<std::vector<std::int32_t>>{
             {1}, {1, 1, 1}, {5}, {64, 64, 7}, {64, 1}, {1, 70, 1, 2}}) {
      run_chunks(*context, lengths);
    }
  }
}

TEST(F12PreviousOwnersState, TheConvolutionStartsFromZerosToo) {
  for (const auto& context : all_contexts()) {
    Random random(3);
    for (const std::int32_t length : {1, 2, 3, 9}) {
      Operand x(DType::kF32, {length, 20}, Layout::kDense, random.values(length * 20, -1, 1));
      Operand w(DType::kF32, {20, 4}, Layout::kDense, random.values(80, -1, 1));
      Operand state(DType::kF32, {2, 20, 3}, Layout::kDense);
      Operand out(DType::kF32, {length, 20}, Layout::kDense);
      Rows rows;
      rows.add(0, length, 1, 0);
      const auto args = [&](Source s) {
        return CausalConvArgs{rows.view(), x(s), w(s), state(s), out(s)};
      };
      ASSERT_OK(causal_conv(*context, args(Source::kKernel)));
      reference::causal_conv(args(Source::kRounded));
      EXPECT_TRUE(near(out.kernel().values(), out.of(Source::kRounded).values(), {1e-6, 1e-5}));
      EXPECT_TRUE(near(state.kernel().gather({1}), state.of(Source::kRounded).gather({1}), {0, 0}));
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
