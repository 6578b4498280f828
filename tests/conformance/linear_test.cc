// Conformance of the matrix product.
#include <array>
#include <vector>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

class ConformanceLinear : public Conformance {
 protected:
  /// Where a row does not depend on the rows beside it: everywhere on the CPU.
  Context& invariant() {
    if (!on_cuda()) return context();
    if (invariant_ == nullptr) invariant_ = make_cuda_context("", true);
    return *invariant_;
  }

 private:
  std::unique_ptr<Context> invariant_;
};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceLinear, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceLinear, ::testing::ValuesIn(cuda_setups()), setup_name);

TEST_P(ConformanceLinear, EveryRowCountAndTail) {
  for (const std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 103}) {
    for (const std::int64_t k : {1, 7, 16, 33, 300}) {
      const std::int64_t n = m == 9 ? 70 : 5;
      Operand x(dtype(), {m, k}, Layout::kSliced, random.values(m * k, -1, 1));
      Operand weight(dtype(), {n, k}, Layout::kSliced, random.values(n * k, -1, 1));
      Operand out(DType::kF32, {m, n}, Layout::kSliced);
      run(linear, reference::linear, [&](Source s) { return LinearArgs{x(s), weight(s), out(s)}; });
      expect_conforms(out, everything(m), kLinearBound, dtype());
    }
  }
}

TEST_P(ConformanceLinear, SumsOfSeveralSlabsAndRowsOfSeveralBlocks) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{1, 67, 1500},
                                                                        {6, 16, 1025},
                                                                        {7, 130, 513},
                                                                        {15, 50, 1030},
                                                                        {32, 130, 1500},
                                                                        {46, 300, 34},
                                                                        {200, 66, 515},
                                                                        {409, 3, 1024}}) {
    Operand x(dtype(), {m, k}, Layout::kSliced, random.values(m * k, -1, 1));
    Operand weight(dtype(), {n, k}, Layout::kSliced, random.values(n * k, -1, 1));
    Operand out(DType::kF32, {m, n}, Layout::kSliced);
    run(linear, reference::linear, [&](Source s) { return LinearArgs{x(s), weight(s), out(s)}; });
    expect_conforms(out, everything(m), kLinearBound, dtype());
  }
}

TEST_P(ConformanceLinear, EveryPairOfTypesAndAccumulation) {
  for (const DType weight_type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType out_type : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const bool accumulate : {false, true}) {
        Operand x(dtype(), {5, 77}, Layout::kSliced, random.values(5 * 77, -1, 1));
        Operand weight(weight_type, {9, 77}, Layout::kSliced, random.values(9 * 77, -1, 1));
        Operand out(out_type, {5, 9}, Layout::kSliced, random.values(45, -4, 4));
        run(linear, reference::linear, [&](Source s) {
          return LinearArgs{x(s), weight(s), out(s), accumulate};
        });
        const DType least = half_ulp(weight_type) > half_ulp(dtype()) ? weight_type : dtype();
        const DType in = half_ulp(out_type) > half_ulp(least) ? out_type : least;
        expect_conforms(out, everything(5), kLinearBound, in);
      }
    }
  }
}

// Sums of few and of many rows and columns, of one slab and of several, each whole and not.
TEST_P(ConformanceLinear, AGateMultipliesTheSum) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 7, 33}, {5, 64, 64}, {31, 67, 514}, {40, 67, 515}, {130, 96, 1024}}) {
    for (const DType out_type : {DType::kF32, DType::kBF16, DType::kF16}) {
      const bool accumulate = k == 64;
      Operand x(dtype(), {m, k}, Layout::kSliced, random.values(m * k, -1, 1));
      Operand weight(dtype(), {n, k}, Layout::kSliced, random.values(n * k, -1, 1));
      Operand gate(out_type, {m, n}, Layout::kSliced, random.values(m * n, -6, 6));
      Operand out(out_type, {m, n}, Layout::kSliced, random.values(m * n, -4, 4));
      run(linear, reference::linear, [&](Source s) {
        return LinearArgs{x(s), weight(s), out(s), accumulate, gate(s)};
      });
      const DType in = half_ulp(out_type) > half_ulp(dtype()) ? out_type : dtype();
      expect_conforms(out, everything(m), kLinearBound, in);
    }
  }
}

TEST_P(ConformanceLinear, AGateMayBeTheOutputItself) {
  for (const std::int64_t m : {3, 130}) {
    Operand x(dtype(), {m, 70}, Layout::kSliced, random.values(m * 70, -1, 1));
    Operand weight(dtype(), {45, 70}, Layout::kSliced, random.values(45 * 70, -1, 1));
    Operand out(dtype(), {m, 45}, Layout::kSliced, random.values(m * 45, -6, 6));
    run(linear, reference::linear, [&](Source s) {
      return LinearArgs{x(s), weight(s), out(s), false, out(s)};
    });
    expect_conforms(out, everything(m), kLinearBound, dtype());
  }
}

TEST_P(ConformanceLinear, TheWeightsOfAGateMakeIt) {
  for (const auto& [m, n, k] :
       std::vector<std::array<std::int64_t, 3>>{{1, 7, 33}, {5, 64, 64}, {40, 67, 515}}) {
    Operand x(dtype(), {m, k}, Layout::kSliced, random.values(m * k, -1, 1));
    Operand weight(dtype(), {n, k}, Layout::kSliced, random.values(n * k, -1, 1));
    Operand gate(dtype(), {n, k}, Layout::kSliced, random.values(n * k, -1, 1));
    Operand out(DType::kF32, {m, n}, Layout::kSliced, random.values(m * n, -4, 4));
    run(linear, reference::linear,
        [&](Source s) { return LinearArgs{x(s), weight(s), out(s), false, {}, gate(s)}; });
    expect_conforms(out, everything(m), kLinearBound, dtype());
    LinearArgs both{x.kernel().view(), weight.kernel().view(), out.kernel().view()};
    both.gate = out.kernel().view();
    both.gate_weight = gate.kernel().view();
    EXPECT_ERROR(linear(context(), both), kInvalidArgument, "gate and gate_weight are both given");
  }
}

// x in float32 or of the type of the weights; few and many rows, one that is all zeros.
TEST_P(ConformanceLinear, ANormOfXOnItsWay) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 7, 33}, {5, 64, 64}, {16, 40, 1032}, {40, 67, 512}}) {
    for (const DType x_type : {DType::kF32, dtype()}) {
      for (const bool gated : {false, true}) {
        std::vector<double> values = random.values(m * k, -30, 30);
        if (m > 1) std::fill_n(values.begin() + k, k, 0);
        Operand x(x_type, {m, k}, Layout::kAlignedSliced, values);
        Operand norm(DType::kF32, {k}, Layout::kDense, random.values(k, -0.5, 0.5));
        Operand weight(dtype(), {n, k}, Layout::kAlignedSliced, random.values(n * k, -1, 1));
        Operand gate(dtype(), {n, k}, Layout::kAlignedSliced, random.values(n * k, -0.1, 0.1));
        Operand out(DType::kF32, {m, n}, Layout::kAlignedSliced, random.values(m * n, -4, 4));
        run(linear, reference::linear, [&](Source s) {
          LinearArgs args{x(s), weight(s), out(s)};
          if (gated) args.gate_weight = gate(s);
          args.norm_weight = norm(s);
          return args;
        });
        // x is rounded behind its norm.
        OpBound bound = kLinearBound;
        bound.tight = 2 * bound.tight + half_ulp(dtype());
        bound.loose = 3;
        expect_conforms(out, everything(m), bound, dtype());
      }
    }
  }
}

TEST_P(ConformanceLinear, ANormOfAnotherTypeOrLengthIsRefused) {
  const DType other = dtype() == DType::kBF16 ? DType::kF16 : DType::kBF16;
  Buffer x(other, {2, 8}), weight(dtype(), {3, 8}), out(DType::kF32, {2, 3});
  Buffer norm(DType::kF32, {8}), shorter(DType::kF32, {7}), whole(DType::kF32, {2, 8});
  LinearArgs args{x.view(), weight.view(), out.view()};
  args.norm_weight = norm.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "with a norm x must be f32");
  args.x = whole.view();
  args.norm_epsilon = -1;
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "norm_epsilon is -1");
  args.norm_epsilon = 0;
  args.norm_weight = shorter.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "norm_weight");
  EXPECT_TRUE(out.is_poison({}));
}

TEST_P(ConformanceLinear, AHalfOfWhatHandsANormOnIsRefused) {
  Buffer x(dtype(), {2, 16}), weight(dtype(), {8, 16}), out(DType::kF32, {2, 8});
  Buffer norm(DType::kF32, {8}), next(dtype(), {2, 8}), squares(DType::kF32, {2, 1});
  Buffer wide(DType::kF32, {2, 2}), wide_norm(DType::kF32, {16});
  LinearArgs args{x.view(), weight.view(), out.view()};
  args.next_norm = norm.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "next_x");
  args.next_x = next.view();
  args.next_squares = wide.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "next_squares has 2 columns");
  args.next_squares = squares.view();
  args.gate = out.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "next_norm is given with a gate");
  args.gate = {};
  args.x_squares = squares.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "x_squares has 1 columns");
  args.x_squares = wide.view();
  args.norm_weight = wide_norm.view();
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "norm_weight are both given");
  args.norm_weight = {};
  args.next_squares = wide.view().at(0, {2, 1}, {2, 1});
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "x_squares");
  args.next_squares = squares.view();
  args.norm_epsilon = -1;
  EXPECT_ERROR(linear(context(), args), kInvalidArgument, "norm_epsilon is -1");
  EXPECT_FALSE(linear_takes(context(), args));
  EXPECT_TRUE(out.is_poison({}));
  if (on_cuda()) return;
  args.norm_epsilon = 0;
  EXPECT_FALSE(linear_takes(context(), args));
  EXPECT_ERROR(linear(context(), args), kUnsupported,
               "x_squares is given, must be none on the CPU");
  args.x_squares = {};
  EXPECT_ERROR(linear(context(), args), kUnsupported,
               "next_norm is given, must be none on the CPU");
  args.next_norm = {};
  args.next_x = {};
  args.next_squares = {};
  EXPECT_TRUE(linear_takes(context(), args));
  EXPECT_TRUE(out.is_poison({}));
}

TEST_P(ConformanceLinear, RowsOnEitherSideOfAnotherWayThroughTilesAreTheSame) {
  const std::int64_t m = 130, n = 70, k = 1100;  // up to 96 rows take weights where they lie
  Operand x(dtype(), {m, k}, Layout::kDense, random.values(m * k, -1, 1));
  Operand weight(dtype(), {n, k}, Layout::kDense, random.values(n * k, -1, 1));
  Buffer all(dtype(), {m, n});
  ASSERT_OK(linear(invariant(), {x.kernel().view(), weight.kernel().view(), all.view()}));
  for (const std::int64_t rows : {1, 12, 13, 16, 17, 28, 29, 32, 33, 44, 45, 48, 49, 96, 97}) {
    Buffer some(dtype(), {rows, n});
    const ConstTensorView first = ConstTensorView(x.kernel().view()).at(0, {rows, k}, {k, 1});
    ASSERT_OK(linear(invariant(), {first, weight.kernel().view(), some.view()}));
    for (std::int64_t i = 0; i < rows; ++i) EXPECT_EQ(some.bytes(i), all.bytes(i));
  }
}

// So many inner elements and columns that rows in lanes are turned, and their outputs stored, in
// several parts.
TEST_P(ConformanceLinear, ManyRowsOfLongSumsAreThoseOfFew) {
  const std::int64_t m = 48, n = 1280, k = 5002;
  Operand x(dtype(), {m, k}, Layout::kSliced, random.values(m * k, -1, 1));
  Operand weight(dtype(), {n, k}, Layout::kSliced, random.values(n * k, -1, 1));
  const ConstTensorView all = x.kernel().view();
  const auto rows_of = [&](std::int64_t rows) { return all.at(0, {rows, k}, {all.stride(0), 1}); };
  Buffer few(DType::kF32, {5, n});
  ASSERT_OK(linear(invariant(), {rows_of(5), weight.kernel().view(), few.view()}));
  for (const std::int64_t rows : {16, 31, 48}) {
    Buffer many(DType::kF32, {rows, n});
    ASSERT_OK(linear(invariant(), {rows_of(rows), weight.kernel().view(), many.view()}));
    for (std::int64_t i = 0; i < 5; ++i) EXPECT_EQ(many.bytes(i), few.bytes(i));
  }
}

TEST_P(ConformanceLinear, AnEmptySumIsZero) {
  for (const std::int64_t m : {3, 14, 20, 40}) {
    for (const std::int64_t n : {4, 70}) {
      // What a worker keeps from a call before is not to be seen.
      Operand dirt_x(dtype(), {m, 64}, Layout::kDense, random.values(m * 64, 1, 2));
      Operand dirt_w(dtype(), {n, 64}, Layout::kDense, random.values(n * 64, 1, 2));
      Buffer out(dtype(), {m, n});
      ASSERT_OK(linear(context(), {dirt_x.kernel().view(), dirt_w.kernel().view(), out.view()}));
      Buffer x(dtype(), {m, 0}), weight(dtype(), {n, 0});
      ASSERT_OK(linear(context(), {x.view(), weight.view(), out.view()}));
      for (const double value : out.values()) EXPECT_EQ(value, 0.0);
      out.fill(std::vector<double>(static_cast<std::size_t>(m * n), 2));
      ASSERT_OK(linear(context(), {x.view(), weight.view(), out.view(), true}));
      for (const double value : out.values()) EXPECT_EQ(value, 2.0);
    }
  }
}

TEST_P(ConformanceLinear, ARowDoesNotDependOnTheRowsBesideIt) {
  const std::int64_t k = 1131;
  const std::int64_t n = 67;
  Operand x(dtype(), {9, k}, Layout::kDense, random.values(9 * k, -1, 1));
  Operand weight(dtype(), {n, k}, Layout::kDense, random.values(n * k, -1, 1));
  Buffer all(dtype(), {9, n});
  ASSERT_OK(linear(invariant(), {x.kernel().view(), weight.kernel().view(), all.view()}));
  for (std::int64_t first = 0; first < 9; ++first) {
    for (std::int64_t m = 1; first + m <= 9; ++m) {
      Buffer some(dtype(), {m, n});
      const ConstTensorView rows = ConstTensorView(x.kernel().view()).at(first * k, {m, k}, {k, 1});
      ASSERT_OK(linear(invariant(), {rows, weight.kernel().view(), some.view()}));
      for (std::int64_t i = 0; i < m; ++i) EXPECT_EQ(some.bytes(i), all.bytes(first + i));
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
