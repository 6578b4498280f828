// F33: softplus and its product with exp(A_log) at the corners of float.
#include <cmath>

#include "src/core/formulas.h"
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F33GateCorners, NoInputMakesNan) {
  const std::vector<double> xs{-1e4, -104, -100, -30, 0, 19.99, 20, 21, 88, 89, 1e4, 3e38, -3e38};
  const std::vector<double> rates{-200, -10, 0, 5, 88.7, 90, 1e4};
  const auto heads = static_cast<std::int64_t>(rates.size());
  const auto tokens = static_cast<std::int64_t>(xs.size());
  for (const auto& context : test_contexts()) {
    Buffer a(DType::kF32, {tokens, heads});
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < heads; ++h) a.set({t, h}, xs[static_cast<std::size_t>(t)]);
    }
    Buffer a_log(DType::kF32, {heads});
    a_log.fill(rates);
    Buffer bias(DType::kF32, {heads});
    bias.fill(std::vector<double>(rates.size(), 0.0));
    Buffer decay(DType::kF32, {tokens, heads});
    Buffer beta(DType::kF32, {tokens, heads});
    ASSERT_OK(gdn_gates(
        *context, {a.view(), a.view(), a_log.view(), bias.view(), decay.view(), beta.view()}));
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const double g = decay.get({t, h});
        EXPECT_TRUE(g <= 0 && g >= -1e4) << xs[static_cast<std::size_t>(t)] << " " << g;
        const double rate = std::fmin(std::exp(a_log.get({h})), 3.4028234663852886e38);
        const double x = a.get({t, h});
        const double softplus = x > 20 ? x : std::log1p(std::exp(x));
        const double want = std::fmax(-1e4, -rate * softplus);
        EXPECT_NEAR(g, want, 1e-7 * std::fabs(want) + 1e-44);
        EXPECT_NEAR(beta.get({t, h}), 1 / (1 + std::exp(-x)), 1e-7);
      }
    }
  }
}

TEST(F33GateCorners, OneFormulaOnBothSidesOfItsThreshold) {
  EXPECT_EQ(core::softplus(20.5), 20.5);
  EXPECT_NEAR(core::softplus(20.0), std::log1p(std::exp(20.0)), 1e-15);
  EXPECT_NEAR(core::softplus(-40.0), std::exp(-40.0), 1e-30);
  EXPECT_NEAR(core::softplus(0.0), std::log(2.0), 1e-16);
  EXPECT_EQ(core::clamp_log_decay(std::nan("")), -1e4);
  EXPECT_EQ(core::clamp_log_decay(3.0), 0.0);
  EXPECT_EQ(core::clamp_log_decay(-2e4), -1e4);
  EXPECT_EQ(core::clamp_log_decay(-3.0), -3.0);
}

}  // namespace
}  // namespace hybridattn::testing
