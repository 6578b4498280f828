// Conformance of the ops without a sum: gates, rotations, tables.
#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

class ConformanceElementwise : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceElementwise, ::testing::ValuesIn(all_setups()),
                         setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceElementwise, ::testing::ValuesIn(cuda_setups()),
                         setup_name);

/// A head that kernels take element by element, and one that they take 16 bytes at a time where
/// its rows are aligned.
std::vector<std::int64_t> dims() { return {37, 64}; }
std::vector<Layout> layouts() {
  return {Layout::kDense, Layout::kSliced, Layout::kTransposed, Layout::kAlignedSliced,
          Layout::kAlignedTransposed};
}

TEST_P(ConformanceElementwise, SigmoidGateOfPaddingIsZeroWhateverItHolds) {
  std::vector<double> values = random.values(5 * 3 * 19, -8, 8);
  for (const std::int64_t t : {1, 4}) {
    std::fill_n(values.begin() + t * 3 * 19, 3 * 19, std::numeric_limits<double>::quiet_NaN());
  }
  Bytes pad(5, 0);
  pad[1] = 1;
  pad[4] = 255;
  Operand x(dtype(), {5, 3, 19}, Layout::kSliced, values);
  Operand gate(dtype(), {5, 3, 19}, Layout::kSliced, values);
  Operand out(dtype(), {5, 3, 19}, Layout::kSliced);
  run(sigmoid_gate, reference::sigmoid_gate, [&](Source s) {
    return SigmoidGateArgs{x(s), gate(s), out(s), pad.data()};
  });
  expect_conforms(out, everything(5), kSigmoidGateBound, dtype());
}

TEST_P(ConformanceElementwise, SigmoidGate) {
  for (const std::int64_t dim : dims()) {
    for (const Layout layout : layouts()) {
      Operand x(dtype(), {5, 3, dim}, layout, random.values(15 * dim, -2, 2));
      Operand gate(dtype(), {5, 3, dim}, layout, random.values(15 * dim, -9, 9));
      Operand out(dtype(), {5, 3, dim}, layout);
      run(sigmoid_gate, reference::sigmoid_gate, [&](Source s) {
        return SigmoidGateArgs{x(s), gate(s), out(s)};
      });
      expect_conforms(out, everything(5), kSigmoidGateBound, dtype());
    }
  }
}

TEST_P(ConformanceElementwise, SiluMul) {
  for (const std::int64_t dim : {83, 160}) {
    for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kAlignedSliced}) {
      Operand gate(dtype(), {6, dim}, layout, random.values(6 * dim, -9, 9));
      Operand up(dtype(), {6, dim}, layout, random.values(6 * dim, -2, 2));
      Operand out(dtype(), {6, dim}, layout);
      run(silu_mul, reference::silu_mul, [&](Source s) {
        return SiluMulArgs{gate(s), up(s), out(s)};
      });
      expect_conforms(out, everything(6), kSiluMulBound, dtype());
    }
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
  for (const std::int64_t dim : dims()) {
    for (const std::int64_t half : {4, 8, 9, 16, 18}) {
      for (const Layout layout : layouts()) {
        Operand x(dtype(), {5, 3, dim}, layout, random.values(15 * dim, -2, 2));
        Operand cosine(DType::kF32, {5, half}, layout, random.values(5 * half, -1, 1));
        Operand sine(DType::kF32, {5, half}, layout, random.values(5 * half, -1, 1));
        Operand out(dtype(), {5, 3, dim}, layout);
        run(rotary, reference::rotary, [&](Source s) {
          return RotaryArgs{x(s), cosine(s), sine(s), out(s)};
        });
        expect_conforms(out, everything(5), kRotaryBound, dtype());
      }
    }
  }
}

TEST_P(ConformanceElementwise, RotaryInPlace) {
  for (const std::int64_t dim : dims()) {
    for (const Layout layout : {Layout::kSliced, Layout::kAlignedSliced}) {
      Operand x(dtype(), {5, 3, dim}, layout, random.values(15 * dim, -2, 2));
      Operand cosine(DType::kF32, {5, 16}, Layout::kDense, random.values(80, -1, 1));
      Operand sine(DType::kF32, {5, 16}, Layout::kDense, random.values(80, -1, 1));
      Operand out(dtype(), {5, 3, dim}, layout);
      run(rotary, reference::rotary, [&](Source s) {
        return RotaryArgs{x(s), cosine(s), sine(s), out(s)};
      });
      ASSERT_OK(rotary(context(), {x.kernel().view(), cosine.kernel().view(), sine.kernel().view(),
                                   x.kernel().view()}));
      EXPECT_EQ(x.kernel().memory(), out.kernel().memory());
    }
  }
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

TEST_P(ConformanceElementwise, RotaryTableOfManyTokensAndLatePositions) {
  std::vector<std::int64_t> positions;
  for (std::int64_t t = 0; t < 3000; ++t) positions.push_back(997'000 + t);
  for (const int dim : {8, 80}) {
    Operand cosine(DType::kF32, {3000, dim / 2}, Layout::kDense);
    Operand sine(DType::kF32, {3000, dim / 2}, Layout::kDense);
    run(rotary_table, reference::rotary_table, [&](Source s) {
      return RotaryTableArgs{positions.data(), 1e4, dim, cosine(s), sine(s)};
    });
    expect_conforms(cosine, everything(3000), kRotaryTableBound, DType::kF32);
    expect_conforms(sine, everything(3000), kRotaryTableBound, DType::kF32);
  }
}

TEST_P(ConformanceElementwise, RotaryTableOfArraysOnTheDevice) {
  // The host's arrays say what a step looks like, those on the device what it is: a captured graph
  // reads them anew.
  const std::vector<std::int64_t> host(4, 0);
  Buffer time(DType::kI64, {4}), height(DType::kI64, {4}), width(DType::kI64, {4});
  time.fill({3, 5, 7, 11});
  height.fill({1, 2, 3, 4});
  width.fill({8, 6, 4, 2});
  const auto device = [](Buffer& x) { return static_cast<const std::int64_t*>(x.view().data); };
  const bool cuda = context().device() == DeviceType::kCuda;
  const auto from = [&](Buffer& x) { return cuda ? device(x) : host.data(); };
  Operand cosine(DType::kF32, {4, 8}, Layout::kDense), sine(DType::kF32, {4, 8}, Layout::kDense);
  ASSERT_OK(rotary_table(context(), {host.data(),
                                     1e4,
                                     16,
                                     cosine.kernel().view(),
                                     sine.kernel().view(),
                                     host.data(),
                                     host.data(),
                                     {3, 3, 2},
                                     device(time),
                                     device(height),
                                     device(width)}));
  for (const Source s : {Source::kRounded, Source::kExact}) {
    reference::rotary_table(
        {from(time), 1e4, 16, cosine(s), sine(s), from(height), from(width), {3, 3, 2}});
  }
  expect_conforms(cosine, everything(4), kRotaryTableBound, DType::kF32);
  expect_conforms(sine, everything(4), kRotaryTableBound, DType::kF32);
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

TEST_P(ConformanceElementwise, GdnGatesOfChannels) {
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

TEST_P(ConformanceElementwise, GdnGates) {
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
