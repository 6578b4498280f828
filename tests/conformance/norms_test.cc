// Conformance of the norms.
#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

class ConformanceNorms : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceNorms, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceNorms, ::testing::ValuesIn(cuda_setups()), setup_name);

constexpr std::int64_t kTokens = 4;
constexpr std::int64_t kHeads = 3;

std::vector<Layout> layouts() {
  return {Layout::kDense, Layout::kSliced, Layout::kTransposed, Layout::kAlignedSliced,
          Layout::kAlignedTransposed};
}
std::vector<std::int64_t> dims() { return {1, 16, 77, 256}; }

TEST_P(ConformanceNorms, L2Norm) {
  for (const std::int64_t dim : dims()) {
    for (const Layout layout : layouts()) {
      const Shape shape{kTokens, kHeads, dim};
      Operand x(dtype(), shape, layout, random.values(kTokens * kHeads * dim, -3, 3));
      Operand out(dtype(), shape, layout);
      run(l2norm, reference::l2norm, [&](Source s) { return L2NormArgs{x(s), out(s), 0.0883f}; });
      expect_conforms(out, everything(kTokens), kL2NormBound, dtype());
    }
  }
}

TEST_P(ConformanceNorms, RmsNormOfHeads) {
  for (const std::int64_t dim : dims()) {
    for (const bool zero_centered : {false, true}) {
      for (const Layout layout : layouts()) {
        const Shape shape{kTokens, kHeads, dim};
        Operand x(dtype(), shape, layout, random.values(kTokens * kHeads * dim, -3, 3));
        Operand weight(dtype(), {dim}, Layout::kDense, random.values(dim, -0.5, 1.5));
        Operand out(dtype(), shape, layout);
        run(rms_norm, reference::rms_norm, [&](Source s) {
          return RmsNormArgs{x(s), weight(s), out(s), 1e-5f, zero_centered};
        });
        expect_conforms(out, everything(kTokens), kRmsNormBound, dtype());
      }
    }
  }
}

TEST_P(ConformanceNorms, RmsNormOfRows) {
  for (const std::int64_t dim : {130, 1024, 1030, 5000}) {
    for (const Layout layout : {Layout::kSliced, Layout::kAlignedSliced}) {
      Operand x(dtype(), {kTokens, dim}, layout, random.values(kTokens * dim, -3, 3));
      Operand weight(DType::kF32, {dim}, Layout::kDense, random.values(dim, -0.5, 1.5));
      Operand out(dtype(), {kTokens, dim}, layout);
      run(rms_norm, reference::rms_norm, [&](Source s) {
        return RmsNormArgs{x(s), weight(s), out(s), 1e-6f, true};
      });
      expect_conforms(out, everything(kTokens), kRmsNormBound, dtype());
    }
  }
}

TEST_P(ConformanceNorms, RmsNormToAnotherType) {
  for (const DType to : {DType::kF32, DType::kBF16, DType::kF16}) {
    Operand x(dtype(), {kTokens, kHeads, 48}, Layout::kDense,
              random.values(kTokens * kHeads * 48, -3, 3));
    Operand weight(DType::kBF16, {48}, Layout::kDense, random.values(48, -0.5, 1.5));
    Operand out(to, {kTokens, kHeads, 48}, Layout::kDense);
    run(rms_norm, reference::rms_norm, [&](Source s) {
      return RmsNormArgs{x(s), weight(s), out(s)};
    });
    expect_conforms(out, everything(kTokens), kRmsNormBound, DType::kBF16);
  }
}

TEST_P(ConformanceNorms, RmsNormInPlace) {
  for (const Layout layout : {Layout::kSliced, Layout::kAlignedSliced}) {
    for (const std::int64_t dim : {24, 1600}) {
      Operand x(dtype(), {kTokens, kHeads, dim}, layout,
                random.values(kTokens * kHeads * dim, -3, 3));
      Operand weight(dtype(), {dim}, Layout::kDense, random.values(dim, -0.5, 1.5));
      Operand out(dtype(), {kTokens, kHeads, dim}, layout);
      run(rms_norm, reference::rms_norm, [&](Source s) {
        return RmsNormArgs{x(s), weight(s), out(s)};
      });
      Buffer& same = x.kernel();
      ASSERT_OK(rms_norm(context(), {same.view(), weight.kernel().view(), same.view()}));
      EXPECT_EQ(same.memory(), out.kernel().memory());
    }
  }
}

TEST_P(ConformanceNorms, GatedRmsNormOfPaddingIsZeroWhateverItHolds) {
  std::vector<double> values = random.values(4 * 2 * 32, -3, 3);
  std::fill_n(values.begin() + 2 * 2 * 32, 2 * 32, std::numeric_limits<double>::quiet_NaN());
  Bytes pad(4, 0);
  pad[2] = 1;
  Operand x(dtype(), {4, 2, 32}, Layout::kSliced, values);
  Operand z(dtype(), {4, 2, 32}, Layout::kSliced, values);
  Operand weight(dtype(), {32}, Layout::kDense, random.values(32, -2, 2));
  Operand out(dtype(), {4, 2, 32}, Layout::kSliced);
  run(gated_rms_norm, reference::gated_rms_norm, [&](Source s) {
    return GatedRmsNormArgs{x(s), z(s), weight(s), out(s), 1e-6f, GateKind::kSilu, pad.data()};
  });
  expect_conforms(out, everything(4), kGatedRmsNormBound, dtype());
}

TEST_P(ConformanceNorms, GatedRmsNorm) {
  for (const std::int64_t dim : dims()) {
    for (const GateKind gate : {GateKind::kSilu, GateKind::kSigmoid}) {
      const Shape shape{kTokens, kHeads, dim};
      const std::int64_t count = kTokens * kHeads * dim;
      Operand x(dtype(), shape, Layout::kTransposed, random.values(count, -3, 3));
      Operand z(dtype(), shape, Layout::kSliced, random.values(count, -6, 6));
      Operand weight(dtype(), {dim}, Layout::kDense, random.values(dim, 0.2, 1.5));
      Operand out(dtype(), shape, Layout::kSliced);
      run(gated_rms_norm, reference::gated_rms_norm,
          [&](Source s) { return GatedRmsNormArgs{x(s), z(s), weight(s), out(s), 1e-6f, gate}; });
      expect_conforms(out, everything(kTokens), kGatedRmsNormBound, dtype());
    }
  }
}

TEST_P(ConformanceNorms, EpsilonStandsInsideTheRoot) {
  // With values near the root of epsilon every other place for it gives another result.
  Operand x(DType::kF32, {2, 1, 16}, Layout::kDense, random.values(32, -1e-3, 1e-3));
  Operand weight(DType::kF32, {16}, Layout::kDense, std::vector<double>(16, 1.0));
  Operand out(DType::kF32, {2, 1, 16}, Layout::kDense);
  run(rms_norm, reference::rms_norm, [&](Source s) {
    return RmsNormArgs{x(s), weight(s), out(s), 1e-6f, false};
  });
  expect_conforms(out, everything(2), kRmsNormBound, DType::kF32);
}

}  // namespace
}  // namespace hybridattn::testing
