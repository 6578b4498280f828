// F61: frequencies and angles stay in double, so that late positions are as exact as early ones.
#include <cmath>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F61RotaryPrecision, TablesUpToAMillionPositions) {
  const std::vector<std::int64_t> positions{0,     1,     64,     513,    1100,   4095,
                                            32768, 99999, 131071, 262143, 999999, 1000000};
  const auto count = static_cast<std::int64_t>(positions.size());
  for (const auto& context : all_contexts()) {
    for (const double theta : {1e4, 1e6, 1e7}) {
      for (const int dim : {8, 64, 256}) {
        Buffer cosine(DType::kF32, {count, dim / 2});
        Buffer sine(DType::kF32, {count, dim / 2});
        ASSERT_OK(
            rotary_table(*context, {positions.data(), theta, dim, cosine.view(), sine.view()}));
        for (std::int64_t t = 0; t < count; ++t) {
          for (std::int64_t i = 0; i < dim / 2; ++i) {
            const long double frequency =
                std::pow(static_cast<long double>(theta),
                         -2.0L * static_cast<long double>(i) / static_cast<long double>(dim));
            const long double angle =
                static_cast<long double>(positions[static_cast<std::size_t>(t)]) * frequency;
            // Half a unit of float32 at 1, and what double leaves of an angle of a million.
            ASSERT_NEAR(cosine.get({t, i}), static_cast<double>(std::cos(angle)), 6.1e-8);
            ASSERT_NEAR(sine.get({t, i}), static_cast<double>(std::sin(angle)), 6.1e-8);
          }
        }
      }
    }
  }
}

TEST(F61RotaryPrecision, ABf16ModelIsRotatedByTheSameAngles) {
  // The rotation itself runs in float32 on bf16 heads: the only rounding is the result's.
  Random random(12);
  for (const auto& context : all_contexts()) {
    const std::vector<std::int64_t> positions{999999, 513};
    Operand x(DType::kBF16, {2, 1, 64}, Layout::kDense, random.values(128, -1, 1));
    Operand cosine(DType::kF32, {2, 32}, Layout::kDense);
    Operand sine(DType::kF32, {2, 32}, Layout::kDense);
    Operand out(DType::kF32, {2, 1, 64}, Layout::kDense);
    ASSERT_OK(rotary_table(
        *context, {positions.data(), 1e7, 64, cosine.kernel().view(), sine.kernel().view()}));
    ASSERT_OK(rotary(*context, {x.kernel().view(), cosine.kernel().view(), sine.kernel().view(),
                                out.kernel().view()}));
    const Source s = Source::kRounded;
    reference::rotary_table({positions.data(), 1e7, 64, cosine(s), sine(s)});
    reference::rotary({x(s), cosine(s), sine(s), out(s)});
    EXPECT_TRUE(near(out.kernel().values(), out.of(s).values(), {2e-7, 1e-6}));
  }
}

TEST(F61RotaryPrecision, BadTablesAreRefused) {
  const auto context = make_context();
  Buffer table(DType::kF32, {2, 4});
  const std::int64_t good[] = {0, 1};
  const std::int64_t bad[] = {0, -1};
  const auto run = [&](const std::int64_t* positions, double theta, int dim) {
    return rotary_table(*context, {positions, theta, dim, table.view(), table.view()});
  };
  EXPECT_OK(run(good, 1e4, 8));
  EXPECT_ERROR(run(bad, 1e4, 8), kInvalidArgument, "positions[1] is -1");
  EXPECT_ERROR(run(nullptr, 1e4, 8), kInvalidArgument, "positions");
  EXPECT_ERROR(run(good, 0, 8), kInvalidArgument, "theta is 0");
  EXPECT_ERROR(run(good, 1e4, 7), kInvalidArgument, "rotary_dim is 7");
  EXPECT_ERROR(run(good, 1e4, 16), kInvalidArgument, "rotary_dim is 16", "2 * 4");
  table = Buffer(DType::kBF16, {2, 4});
  EXPECT_ERROR(run(good, 1e4, 8), kUnsupported, "bf16", "must be f32");
}

}  // namespace
}  // namespace hybridattn::testing
