// Conformance of the matrix product with weights of eight bits.
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

// Sums are exact; three float32 factors are multiplied.
constexpr double kTight = 3e-7;
// Against products that round nothing: x of even magnitudes, rounded to 127 steps. Sums of one
// or two products show most of it.
constexpr double kLoose = 2e-2;

class ConformanceLinearInt8 : public Conformance {
 protected:
  std::vector<double> whole_values(std::int64_t count) {
    std::vector<double> values = random.values(count, -127, 127);
    for (double& value : values) value = std::nearbyint(value);
    return values;
  }
  void expect_rounded_products(std::int64_t m, std::int64_t n, std::int64_t k, DType out_type,
                               bool accumulate, bool gated = false);
};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceLinearInt8, ::testing::ValuesIn(all_setups()),
                         setup_name);

void ConformanceLinearInt8::expect_rounded_products(std::int64_t m, std::int64_t n, std::int64_t k,
                                                    DType out_type, bool accumulate, bool gated) {
  SCOPED_TRACE(::testing::Message() << m << " x " << n << " x " << k);
  const std::vector<double> weights = whole_values(n * k);
  const std::vector<double> scales = random.values(n, 0.001, 0.01);
  Operand x(dtype(), {m, k}, Layout::kSliced, random.values(m * k, -1, 1));
  Operand weight(DType::kI8, {n, k}, Layout::kSliced, weights);
  Operand scale(DType::kF32, {n}, Layout::kDense, scales);
  Operand out(out_type, {m, n}, Layout::kSliced, random.values(m * n, -0.1, 0.1));
  Operand factors(out_type, {m, n}, Layout::kSliced, random.values(m * n, 0.5, 6));
  const auto gate = [&](Source s) {
    return gated ? ConstTensorView(factors(s)) : ConstTensorView();
  };
  Buffer exact(DType::kF64, {m, n});
  exact.fill(out.of(Source::kRounded).values());
  Buffer wide(DType::kF64, {n, k});
  std::vector<double> scaled = weights;
  for (std::int64_t i = 0; i < n * k; ++i) {
    scaled[static_cast<std::size_t>(i)] *= scales[static_cast<std::size_t>(i / k)];
  }
  wide.fill(scaled);
  run(linear_int8, reference::linear_int8, [&](Source s) {
    return LinearInt8Args{x(s), weight(s), scale(s), out(s), accumulate, gate(s)};
  });
  reference::linear(
      {x(Source::kRounded), wide.view(), exact.view(), accumulate, gate(Source::kRounded)});
  const auto got = out.of(Source::kKernel).gather(everything(m));
  const double rounding = half_ulp(out_type);
  EXPECT_TRUE(near(got, round_to(out_type, out.of(Source::kRounded).gather(everything(m))),
                   {kTight + 2 * rounding, 8 * kTight + 2.01 * rounding}));
  EXPECT_TRUE(near(got, exact.values(), {kLoose + rounding, 4 * (kLoose + rounding)}));
  EXPECT_TRUE(out.kernel().gaps_intact());
}

TEST_P(ConformanceLinearInt8, EveryRowCountAndTail) {
  for (const std::int64_t m : {1, 2, 3, 5, 7, 9, 13, 17, 40}) {
    for (const std::int64_t k : {1, 7, 16, 33, 64, 300}) {
      expect_rounded_products(m, m == 9 || m == 40 ? 70 : 5, k, DType::kF32, false);
    }
  }
}

TEST_P(ConformanceLinearInt8, SumsOfSeveralSlabsAndRowsOfSeveralBlocks) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 67, 3000}, {6, 16, 1025}, {17, 130, 1027}, {200, 66, 1030}, {409, 3, 1024}}) {
    expect_rounded_products(m, n, k, DType::kF32, false);
  }
}

TEST_P(ConformanceLinearInt8, AGateMultipliesTheSum) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    expect_rounded_products(3, 70, 77, type, false, true);
    expect_rounded_products(40, 9, 515, type, true, true);
  }
}

TEST_P(ConformanceLinearInt8, EveryOutputTypeAndAccumulation) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool accumulate : {false, true}) expect_rounded_products(5, 9, 77, type, accumulate);
  }
}

TEST_P(ConformanceLinearInt8, LargestSumsStayInRange) {
  const std::int64_t k = 65536;
  Buffer x(dtype(), {1, k});
  Buffer weight(DType::kI8, {2, k});
  Buffer scale(DType::kF32, {2});
  Buffer out(DType::kF32, {1, 2});
  std::vector<double> weights(static_cast<std::size_t>(2 * k), 127);
  std::fill(weights.begin() + k, weights.end(), -127);
  x.fill(std::vector<double>(static_cast<std::size_t>(k), 1));
  weight.fill(weights);
  scale.fill({1, 1});
  ASSERT_OK(linear_int8(context(), {x.view(), weight.view(), scale.view(), out.view()}));
  EXPECT_NEAR(out.values()[0], 127.0 * k, 1);
  EXPECT_NEAR(out.values()[1], -127.0 * k, 1);
}

TEST_P(ConformanceLinearInt8, ARowWithoutNumbersGivesNoneAndARowOfZerosGivesZeros) {
  const double inf = std::numeric_limits<double>::infinity();
  // Without instructions for it a wider f16 has no infinities.
  Buffer x(dtype() == DType::kF16 ? DType::kF32 : dtype(), {4, 3});
  Buffer weight(DType::kI8, {2, 3});
  Buffer scale(DType::kF32, {2});
  Buffer out(dtype(), {4, 2});
  x.fill({1, NAN, 1, 0, 0, 0, -inf, 0, 0, 1, 2, 3});
  weight.fill({1, 2, 3, -4, 5, -6});
  scale.fill({1, 1});
  ASSERT_OK(linear_int8(context(), {x.view(), weight.view(), scale.view(), out.view()}));
  const std::vector<double> got = out.values();
  for (const std::size_t i : {0u, 1u, 4u, 5u}) EXPECT_TRUE(std::isnan(got[i]));
  EXPECT_EQ(got[2], 0);
  EXPECT_EQ(got[3], 0);
  EXPECT_NEAR(got[6], 14, 0.3);
}

TEST_P(ConformanceLinearInt8, ARowDoesNotDependOnTheRowsBesideIt) {
  const std::int64_t k = 1131, n = 67, m = 40;
  Operand x(dtype(), {m, k}, Layout::kDense, random.values(m * k, -1, 1));
  Operand weight(DType::kI8, {n, k}, Layout::kDense, whole_values(n * k));
  Buffer scale(DType::kF32, {n});
  scale.fill(random.values(n, 0.001, 0.01));
  Buffer all(dtype(), {m, n});
  const ConstTensorView w = weight.kernel().view();
  ASSERT_OK(linear_int8(context(), {x.kernel().view(), w, scale.view(), all.view()}));
  for (const std::int64_t count : {1, 2, 9, 20}) {
    Buffer some(dtype(), {count, n});
    const ConstTensorView rows = ConstTensorView(x.kernel().view()).at(3 * k, {count, k}, {k, 1});
    ASSERT_OK(linear_int8(context(), {rows, w, scale.view(), some.view()}));
    for (std::int64_t i = 0; i < count; ++i) EXPECT_EQ(some.bytes(i), all.bytes(3 + i));
  }
}

}  // namespace
}  // namespace hybridattn::testing
