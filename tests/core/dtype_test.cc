// Element types: every bit pattern of the half types, and rounding against double arithmetic.
#include "hybridattn/dtype.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

/// Value of a half type by its definition: sign, exponent of `exponent_bits`, mantissa.
double decode(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1.0 : 1.0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const auto mantissa = static_cast<double>(bits & ((1u << mantissa_bits) - 1));
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(1.0 + std::ldexp(mantissa, -mantissa_bits), exponent - bias);
}

/// Nearest value of a type with `mantissa_bits` and least exponent `lowest`, ties to even, in
/// double.
double round_in_double(double x, int mantissa_bits, int lowest, double largest) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int ulp = std::max(exponent - 1, lowest) - mantissa_bits;
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -ulp)), ulp);
  return std::fabs(rounded) > largest ? std::copysign(INFINITY, x) : rounded;
}

constexpr double kLargestF16 = 65504.0;
const double kLargestBf16 = std::ldexp(255.0, 120);

TEST(DType, SizesAndNames) {
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kF16), 2u);
  EXPECT_EQ(dtype_size(DType::kF32), 4u);
  EXPECT_EQ(dtype_size(DType::kI32), 4u);
  EXPECT_EQ(dtype_size(DType::kF64), 8u);
  EXPECT_EQ(dtype_size(DType::kI64), 8u);
  EXPECT_EQ(dtype_name(DType::kBF16), "bf16");
  EXPECT_EQ(dtype_name(DType::kF16), "f16");
  EXPECT_TRUE(is_model_float(DType::kF16));
  EXPECT_FALSE(is_model_float(DType::kF64));
  EXPECT_FALSE(is_model_float(DType::kI32));
}

TEST(DType, EveryF16PatternRoundTrips) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const F16 half{static_cast<std::uint16_t>(bits)};
    const double want = decode(bits, 5, 10);
    const float got = to_float(half);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      EXPECT_TRUE(std::isnan(to_float(to_f16(got)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(got), want) << bits;
    ASSERT_EQ(std::signbit(got), (bits >> 15) != 0) << bits;
    ASSERT_EQ(to_f16(got).bits, half.bits) << bits;
  }
}

TEST(DType, EveryBf16PatternRoundTrips) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const BF16 half{static_cast<std::uint16_t>(bits)};
    const double want = decode(bits, 8, 7);
    const float got = to_float(half);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      EXPECT_TRUE(std::isnan(to_float(to_bf16(got)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(got), want) << bits;
    ASSERT_EQ(to_bf16(got).bits, half.bits) << bits;
  }
}

void expect_rounds(float x) {
  const auto f16 = static_cast<double>(to_float(to_f16(x)));
  ASSERT_EQ(f16, round_in_double(static_cast<double>(x), 10, -14, kLargestF16)) << x;
  const auto bf16 = static_cast<double>(to_float(to_bf16(x)));
  ASSERT_EQ(bf16, round_in_double(static_cast<double>(x), 7, -126, kLargestBf16)) << x;
}

TEST(DType, RoundsRandomFloatsAsDoubleArithmeticDoes) {
  Random random(7);
  for (int i = 0; i < 200000; ++i) {
    const float any = std::bit_cast<float>(static_cast<std::uint32_t>(random.engine()()));
    if (!std::isnan(any)) expect_rounds(any);
    const double exponent = random.uniform(-30, 17);
    expect_rounds(static_cast<float>(std::exp2(exponent) * (random.uniform(0, 1) < 0.5 ? 1 : -1)));
  }
}

TEST(DType, RoundsTiesToEvenAndTheirNeighbours) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float low = to_float(F16{static_cast<std::uint16_t>(bits)});
    const float high =
        bits == 0x7bff ? 65536.0f : to_float(F16{static_cast<std::uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      expect_rounds(x);
      expect_rounds(-x);
    }
  }
}

TEST(DType, EveryF8PatternRoundTrips) {
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    const F8E4M3 byte{static_cast<std::uint8_t>(bits)};
    const float got = to_float(byte);
    const std::uint32_t exponent = (bits >> 3) & 15, mantissa = bits & 7;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      EXPECT_TRUE(std::isnan(to_float(to_f8_e4m3(got)))) << bits;
      continue;
    }
    const double magnitude = exponent == 0
                                 ? std::ldexp(mantissa, -9)
                                 : std::ldexp(8 + mantissa, static_cast<int>(exponent) - 10);
    ASSERT_EQ(static_cast<double>(got), bits >= 128 ? -magnitude : magnitude) << bits;
    ASSERT_EQ(std::signbit(got), bits >= 128) << bits;
    ASSERT_EQ(to_f8_e4m3(got).bits, byte.bits) << bits;
  }
}

TEST(DType, F8RoundsToTheNearestAndCutsAtItsLargest) {
  const auto nearest = [](double x) {
    double best = 0;
    for (std::uint32_t bits = 0; bits < 256; ++bits) {
      const double value = static_cast<double>(to_float(F8E4M3{static_cast<std::uint8_t>(bits)}));
      // Of two as near, the even mantissa.
      if (std::isnan(value)) continue;
      const double distance = std::abs(value - x), least = std::abs(best - x);
      if (distance < least || (distance == least && (bits & 1) == 0)) best = value;
    }
    return best;
  };
  Random random(11);
  for (int i = 0; i < 20000; ++i) {
    const auto x = static_cast<float>(std::exp2(random.uniform(-12, 10)) *
                                      (random.uniform(0, 1) < 0.5 ? 1 : -1));
    ASSERT_EQ(static_cast<double>(to_float(to_f8_e4m3(x))), nearest(static_cast<double>(x))) << x;
  }
  for (std::uint32_t bits = 0; bits < 0x7d; ++bits) {
    const float low = to_float(F8E4M3{static_cast<std::uint8_t>(bits)});
    const float high = to_float(F8E4M3{static_cast<std::uint8_t>(bits + 1)});
    const float middle = (low + high) / 2;
    for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      ASSERT_EQ(static_cast<double>(to_float(to_f8_e4m3(x))), nearest(static_cast<double>(x))) << x;
    }
  }
  for (const float x : {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(to_float(to_f8_e4m3(x)), 448.0f);
    EXPECT_EQ(to_float(to_f8_e4m3(-x)), -448.0f);
  }
}

TEST(DType, NanStaysNanWithoutLosingItsMantissa) {
  // A signalling NaN whose set bits all lie in the half that is cut off.
  const float hidden = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(hidden))));
  EXPECT_TRUE(std::isnan(to_float(to_f16(hidden))));
}

}  // namespace
}  // namespace hybridattn::testing
