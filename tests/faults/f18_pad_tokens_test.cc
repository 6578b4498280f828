// F18: tokens beside a row, left or right of it, must not move its state.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

/// State and window after 40 tokens with `left` and `right` tokens of random data around them.
std::vector<Bytes> states_with_padding(Context& context, std::int32_t left, std::int32_t right) {
  const std::int64_t tokens = left + 40 + right;
  const std::int64_t width = 64;
  Random inside(1);
  Random outside(static_cast<std::uint64_t>(left * 1000 + right));
  const auto padded = [&](std::int64_t elements, double low, double high) {
    std::vector<double> values = outside.values(left * elements, low, high);
    const auto real = inside.values(40 * elements, low, high);
    values.insert(values.end(), real.begin(), real.end());
    const auto more = outside.values(right * elements, low, high);
    values.insert(values.end(), more.begin(), more.end());
    return values;
  };
  GdnCase::Dims dims;
  dims.tokens = tokens;
  GdnCase c(dims);
  c.q.kernel().fill(padded(2 * 16, -1, 1));
  c.k.kernel().fill(padded(2 * 16, -1, 1));
  c.v.kernel().fill(padded(4 * 32, -1, 1));
  c.decay.kernel().fill(padded(4, -0.1, 0));
  c.beta.kernel().fill(padded(4, 0, 1));
  c.state.kernel().fill(inside.values(4 * 32 * 16, -1, 1));
  c.rows.add(left, 40, 0, 8);
  EXPECT_OK(gdn_prefill(context, c.args(Source::kKernel)));
  Buffer x(DType::kF32, {tokens, width});
  Buffer w(DType::kF32, {width, 4});
  Buffer window(DType::kF32, {1, width, 3});
  Buffer out(DType::kF32, {tokens, width});
  x.fill(padded(width, -1, 1));
  w.fill(inside.values(width * 4, -1, 1));
  window.fill(inside.values(width * 3, -1, 1));
  EXPECT_OK(causal_conv(context, {c.rows.view(), x.view(), w.view(), window.view(), out.view()}));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool outside_row = t < left || t >= left + 40;
    EXPECT_EQ(out.is_poison({t}), outside_row) << t;
    EXPECT_EQ(c.out.kernel().is_poison({t}), outside_row) << t;
  }
  return {c.state.kernel().memory(), window.memory()};
}

TEST(F18PadTokensAdvanceState, NothingOutsideOfARowCounts) {
  for (const auto& context : all_contexts()) {
    const auto alone = states_with_padding(*context, 0, 0);
    for (const std::int32_t n : {1, 2, 3, 24, 63, 70}) {
      EXPECT_EQ(states_with_padding(*context, n, 0), alone) << n;
      EXPECT_EQ(states_with_padding(*context, 0, n), alone) << n;
      EXPECT_EQ(states_with_padding(*context, n, 71 - n), alone) << n;
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
