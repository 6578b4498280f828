// F30: one strong decay must not delete the tokens that come after it in the chunk.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

void run(Context& context, const std::vector<double>& gates) {
  GdnCase::Dims dims;
  dims.tokens = static_cast<std::int64_t>(gates.size());
  GdnCase c(dims);
  c.set_token_gates(gates);
  c.rows.add(0, static_cast<std::int32_t>(gates.size()), 0, 4);
  ASSERT_OK(gdn_prefill(context, c.args(Source::kKernel)));
  c.run_oracle();
  c.expect_as_oracle(1e-6, 1e-5);
  // The last token alone, so that a long row cannot hide it.
  const std::int64_t last = dims.tokens - 1;
  EXPECT_TRUE(
      near(c.out.kernel().gather({last}), c.out.of(Source::kRounded).gather({last}), {1e-6, 1e-5}));
}

TEST(F30UnderflowGuard, TokensAfterAStrongDecaySurvive) {
  for (const auto& context : test_contexts()) {
    for (const std::size_t length : {std::size_t{64}, std::size_t{128}}) {
      for (const double strong : {-80.0, -316.0}) {
        for (const std::size_t at : {std::size_t{0}, std::size_t{5}, std::size_t{62}}) {
          std::vector<double> gates(length, -0.01);
          gates[at] = strong;
          run(*context, gates);
        }
      }
      run(*context, std::vector<double>(length, -1.0));
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
