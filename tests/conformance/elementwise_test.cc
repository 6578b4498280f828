// Conformance of the ops without a sum: gates, rotations, tables.
#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

class ConformanceElementwise : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceElementwise, ::testing::ValuesIn(all_setups()),
                         setup_name);

class ConformanceGdnGates : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceGdnGates, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceGdnGates, ::testing::ValuesIn(cuda_setups()), setup_name);

Shape heads_shape() { return {5, 3, 37}; }
constexpr std::int64_t kHeadElements = 5 * 3 * 37;

TEST_P(ConformanceElementwise, SigmoidGateOfPaddingIsZeroWhateverItHolds) {
  std::vector<double> values = random.values(5 * 3 * 19, -8, 8);
  for (const std::int64_t t : {1, 4}) {
    std::fill_n(values.begin() + t * 3 * 19, 3 * 19, std::numeric_limits<double>::quiet_NaN());
  }
  const std::vector<std::uint8_t> pad{0, 1, 0, 0, 255};
  Operand x(dtype(), {5, 3, 19}, Layout::kSliced, values);
  Operand gate(dtype(), {5, 3, 19}, Layout::kSliced, values);
  Operand out(dtype(), {5, 3, 19}, Layout::kSliced);
  run(sigmoid_gate, reference::sigmoid_gate, [&](Source s) {
    return SigmoidGateArgs{x(s), gate(s), out(s), pad.data()};
  });
  expect_conforms(out, everything(5), kSigmoidGateBound, dtype());
}

TEST_P(ConformanceElementwise, SigmoidGate) {
  for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
    Operand x(dtype(), heads_shape(), layout, random.values(kHeadElements, -2, 2));
    Operand gate(dtype(), heads_shape(), layout, random.values(kHeadElements, -9, 9));
    Operand out(dtype(), heads_shape(), layout);
    run(sigmoid_gate, reference::sigmoid_gate, [&](Source s) {
      return SigmoidGateArgs{x(s), gate(s), out(s)};
    });
    expect_conforms(out, everything(5), kSigmoidGateBound, dtype());
  }
}

TEST_P(ConformanceElementwise, SiluMul) {
  for (const Layout layout : {Layout::kDense, Layout::kSliced}) {
    Operand gate(dtype(), {6, 83}, layout, random.values(6 * 83, -9, 9));
    Operand up(dtype(), {6, 83}, layout, random.values(6 * 83, -2, 2));
    Operand out(dtype(), {6, 83}, layout);
    run(silu_mul, reference::silu_mul, [&](Source s) {
      return SiluMulArgs{gate(s), up(s), out(s)};
    });
    expect_conforms(out, everything(6), kSiluMulBound, dtype());
  }
}

TEST_P(ConformanceElementwise, GatesAtTheirExtremesAreFinite) {
  const std::vector<double> edges{-1e4, -104, -88.8, -30, -0.0, 0, 30, 88.8, 104, 1e4};
  const auto count = static_cast<std::int64_t>(edges.size());
  Operand gate(dtype(), {1, count}, Layout::kDense, edges);
  Operand ones(dtype(), {1, count}, Layout::kDense,
               std::vector<double>(static_cast<std::size_t>(count), 1.0));
  Operand out(dtype(), {1, count}, Layout::kDense);
  run(silu_mul, reference::silu_mul, [&](Source s) {
    return SiluMulArgs{gate(s), ones(s), out(s)};
  });
  expect_conforms(out, {0}, kSiluMulBound, dtype());
}

TEST_P(ConformanceElementwise, Rotary) {
  for (const std::int64_t half : {std::int64_t{4}, std::int64_t{9}, std::int64_t{18}}) {
    for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
      Operand x(dtype(), heads_shape(), layout, random.values(kHeadElements, -2, 2));
      Operand cosine(DType::kF32, {5, half}, layout, random.values(5 * half, -1, 1));
      Operand sine(DType::kF32, {5, half}, layout, random.values(5 * half, -1, 1));
      Operand out(dtype(), heads_shape(), layout);
      run(rotary, reference::rotary, [&](Source s) {
        return RotaryArgs{x(s), cosine(s), sine(s), out(s)};
      });
      expect_conforms(out, everything(5), kRotaryBound, dtype());
    }
  }
}

TEST_P(ConformanceElementwise, RotaryInPlace) {
  Operand x(dtype(), heads_shape(), Layout::kSliced, random.values(kHeadElements, -2, 2));
  Operand cosine(DType::kF32, {5, 16}, Layout::kDense, random.values(80, -1, 1));
  Operand sine(DType::kF32, {5, 16}, Layout::kDense, random.values(80, -1, 1));
  Operand out(dtype(), heads_shape(), Layout::kSliced);
  run(rotary, reference::rotary, [&](Source s) {
    return RotaryArgs{x(s), cosine(s), sine(s), out(s)};
  });
  ASSERT_OK(rotary(context(), {x.kernel().view(), cosine.kernel().view(), sine.kernel().view(),
                               x.kernel().view()}));
  EXPECT_EQ(x.kernel().memory(), out.kernel().memory());
}

TEST_P(ConformanceElementwise, RotaryTable) {
  const std::vector<std::int64_t> positions{0, 1, 63, 4095, 262143};
  const auto count = static_cast<std::int64_t>(positions.size());
  Operand cosine(DType::kF32, {count, 32}, Layout::kSliced);
  Operand sine(DType::kF32, {count, 32}, Layout::kSliced);
  run(rotary_table, reference::rotary_table, [&](Source s) {
    return RotaryTableArgs{positions.data(), 1e7, 64, cosine(s), sine(s)};
  });
  expect_conforms(cosine, everything(count), kRotaryTableBound, DType::kF32);
  expect_conforms(sine, everything(count), kRotaryTableBound, DType::kF32);
}

TEST_P(ConformanceElementwise, RotaryTableOfThreePositions) {
  const std::vector<std::int64_t> time{0, 7, 7, 7, 900}, height{0, 7, 8, 9, 900};
  const std::vector<std::int64_t> width{0, 9, 8, 7, 900};
  for (const std::array<int, 3> sections :
       {std::array{11, 11, 10}, std::array{32, 0, 0}, std::array{10, 2, 20}}) {
    Operand cosine(DType::kF32, {5, 32}, Layout::kSliced);
    Operand sine(DType::kF32, {5, 32}, Layout::kSliced);
    run(rotary_table, reference::rotary_table, [&](Source s) {
      return RotaryTableArgs{time.data(), 1e7,           64,           cosine(s),
                             sine(s),     height.data(), width.data(), sections};
    });
    expect_conforms(cosine, everything(5), kRotaryTableBound, DType::kF32);
    expect_conforms(sine, everything(5), kRotaryTableBound, DType::kF32);
  }
}

TEST_P(ConformanceGdnGates, GdnGatesOfChannels) {
  Operand a(dtype(), {7, 5, 20}, Layout::kSliced, random.values(700, -8, 8));
  Operand b(dtype(), {7, 5}, Layout::kSliced, random.values(35, -8, 8));
  Operand a_log(dtype(), {5}, Layout::kDense, random.values(5, -4, 3));
  Operand bias(dtype(), {5, 20}, Layout::kSliced, random.values(100, -4, 4));
  Operand decay(DType::kF32, {7, 5, 20}, Layout::kSliced);
  Operand beta(DType::kF32, {7, 5}, Layout::kSliced);
  run(gdn_gates, reference::gdn_gates, [&](Source s) {
    return GdnGatesArgs{a(s), b(s), a_log(s), bias(s), decay(s), beta(s), false};
  });
  expect_conforms(decay, everything(7), kGdnGatesBound, dtype());
  expect_conforms(beta, everything(7), kGdnGatesBound, dtype());
}

TEST_P(ConformanceGdnGates, GdnGates) {
  for (const bool negative : {false, true}) {
    Operand a(dtype(), {7, 5}, Layout::kSliced, random.values(35, -8, 8));
    Operand b(dtype(), {7, 5}, Layout::kSliced, random.values(35, -8, 8));
    Operand a_log(dtype(), {5}, Layout::kDense, random.values(5, -4, 3));
    Operand bias(dtype(), {5}, Layout::kDense, random.values(5, -4, 4));
    Operand decay(DType::kF32, {7, 5}, Layout::kSliced);
    Operand beta(DType::kF32, {7, 5}, Layout::kSliced);
    run(gdn_gates, reference::gdn_gates, [&](Source s) {
      return GdnGatesArgs{a(s), b(s), a_log(s), bias(s), decay(s), beta(s), negative};
    });
    expect_conforms(decay, everything(7), kGdnGatesBound, dtype());
    expect_conforms(beta, everything(7), kGdnGatesBound, dtype());
  }
}

}  // namespace
}  // namespace hybridattn::testing
