// Matrix products on CUDA: each kernel at the edges of its tiles, and what batch_invariant
// promises.
#include <array>
#include <cmath>
#include <vector>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

struct Sizes {
  std::int64_t m, n, k;
  const char* kernel;
};

/// Up to 16 rows read weights at the speed of memory: one and two groups of 8 rows, weights for
/// narrow and wide tiles, inner elements of one chunk and of several, whole and not.
std::vector<Sizes> few_rows() {
  std::vector<Sizes> out;
  for (const std::int64_t m : {1, 8, 9, 16}) {
    out.push_back({m, 13, 40, "few_rows"});
    out.push_back({m, 64, 1032, "few_rows"});
    out.push_back({m, 21, 10'248, "few_rows"});
  }
  out.push_back({3, 20'003, 264, "few_rows"});
  out.push_back({5, 8, 4'352, "few_rows"});
  out.push_back({11, 3'001, 72, "few_rows"});
  return out;
}

/// Up to 32 rows where weights come before x: all widths of products and numbers of slices of the
/// inner elements, rings that turn and that do not, slices that end within a stage, empty ones.
std::vector<Sizes> streamed() {
  std::vector<Sizes> out;
  for (const std::int64_t m : {1, 7, 9, 16, 19, 32}) {
    out.push_back({m, 13, 40, "streamed"});
    out.push_back({m, 1'100, 1'288, "streamed"});
    out.push_back({m, 40, 2'056, "streamed"});
    out.push_back({m, 301, 4'352, "streamed"});
  }
  out.push_back({5, 21, 10'240, "streamed"});
  out.push_back({30, 21, 10'240, "streamed"});
  out.push_back({3, 70, 9 * 64, "streamed"});
  out.push_back({2, 30'005, 264, "streamed"});
  out.push_back({12, 9'003, 1'032, "streamed"});
  out.push_back({30, 9'003, 1'032, "streamed"});
  // Clusters that take several tiles.
  for (const std::int64_t m : {3, 12, 30}) {
    out.push_back({m, 9'003, 1'160, "streamed"});
    out.push_back({m, 6'144, 1'024, "streamed"});
  }
  return out;
}

/// Up to 128 rows where the blocks of a cluster share x: one team of rows and two, all widths of
/// tiles, numbers of slices and of blocks that share, tiles that are nobody's, empty slices, rows
/// of x that are not there.
std::vector<Sizes> multicast() {
  std::vector<Sizes> out;
  for (const std::int64_t m : {33, 128}) {
    out.push_back({m, 8, 40, "multicast"});
    out.push_back({m, 13, 40, "multicast"});
    out.push_back({m, 1'096, 1'288, "multicast"});
    out.push_back({m, 40, 2'056, "multicast"});
    out.push_back({m, 301, 4'352, "multicast"});
  }
  out.push_back({64, 1'096, 72, "multicast"});
  out.push_back({65, 1'101, 72, "multicast"});
  out.push_back({40, 24, 10'240, "multicast"});
  out.push_back({97, 24, 10'240, "multicast"});
  out.push_back({35, 72, 9 * 64, "multicast"});
  out.push_back({34, 1'024, 2'048, "multicast"});
  out.push_back({34, 5'000, 520, "multicast"});
  out.push_back({66, 2'600, 648, "multicast"});
  // Clusters that take several tiles.
  out.push_back({50, 20'008, 136, "multicast"});
  out.push_back({100, 20'003, 136, "multicast"});
  out.push_back({20, 33'000, 136, "multicast"});  // of so many weights fewer rows too
  out.push_back({66, 1'064, 3'400, "multicast"});
  return out;
}

/// Families are those of other ops.
std::vector<Setup> product_setups() {
  std::vector<Setup> out = cuda_setups();
  std::erase_if(out, [](const Setup& setup) { return setup.cuda_family != "auto"; });
  return out;
}

class CudaLinear : public Conformance {
 protected:
  enum class Extra { kNone, kAccumulate, kGate, kGateIsOut, kGateWeight, kJoined, kAddedGate };

  /// The same behind a norm of x, which is float32.
  void expect_normed(const Sizes& s, bool gated) {
    SCOPED_TRACE(::testing::Message() << s.m << " " << s.n << " " << s.k << " " << gated);
    Operand x = values(DType::kF32, {s.m, s.k}, 30), norm = values(DType::kF32, {s.k}, 0.5);
    Operand w = values(dtype(), {s.n, s.k}, 1), gate = values(dtype(), {s.n, s.k}, 0.1);
    Operand out = values(DType::kF32, {s.m, s.n}, 4);
    run(linear, reference::linear, [&](Source source) {
      LinearArgs args{x(source), w(source), out(source)};
      if (gated) args.gate_weight = gate(source);
      args.norm_weight = norm(source);
      return args;
    });
    const std::string kernel(context().last_kernel_target());
    EXPECT_EQ(kernel, kernel_of(s, false));
    OpBound bound = kLinearBound;
    bound.tight = 4 * bound.tight + half_ulp(dtype());
    bound.loose = 4;
    expect_conforms(out, everything(s.m), bound, dtype());
  }

  Operand values(DType type, const Shape& shape, double bound) {
    std::int64_t count = 1;
    for (const std::int64_t d : shape) count *= d;
    return Operand(type, shape, Layout::kAlignedSliced, random.values(count, -bound, bound));
  }
  /// Whether this device copies weights of few rows before x is there.
  bool streams() {
    Buffer x(dtype(), {1, 64}), w(dtype(), {64, 64}), out(dtype(), {1, 64});
    EXPECT_OK(linear(context(), {x.view(), w.view(), out.view()}));
    return context().last_kernel_target() == "streamed";
  }
  /// What serves some dozens of rows.
  const char* some_rows() { return streams() ? "multicast" : "cublaslt"; }
  /// Few rows of what the streaming kernel does not take, or all where there is none.
  std::string kernel_of(const Sizes& s, bool gate_is_given) {
    const bool streamed = !gate_is_given && streams();
    const std::string kernel = s.kernel;
    return kernel == "few_rows" && streamed ? "streamed" : kernel;
  }

  /// A call of the type of the setup against both oracles.
  void expect_product(const Sizes& s, DType out_type, Extra extra) {
    SCOPED_TRACE(::testing::Message() << s.m << " " << s.n << " " << s.k << " "
                                      << dtype_name(out_type) << " " << static_cast<int>(extra));
    // No more weights than the call reads: of a large product making them takes longest.
    const std::int64_t halves = extra == Extra::kJoined ? 2 : 1;
    Operand x = values(dtype(), {s.m, s.k}, 1), w = values(dtype(), {halves * s.n, s.k}, 1);
    Operand gate = values(out_type, {s.m, s.n}, 6), out = values(out_type, {s.m, s.n}, 4);
    const bool has_gate_weight = extra == Extra::kGateWeight || extra == Extra::kAddedGate;
    Operand gate_weight = values(dtype(), {has_gate_weight ? s.n : 1, s.k}, 1);
    run(linear, reference::linear, [&](Source source) {
      const ConstTensorView both = w(source);
      const auto half = [&](std::int64_t i) {
        return both.at(i * s.n * both.stride(0), {s.n, s.k}, {both.stride(0), 1});
      };
      LinearArgs args{x(source), half(halves - 1), out(source)};
      args.accumulate = extra == Extra::kAccumulate || extra == Extra::kAddedGate;
      if (extra == Extra::kGate) args.gate = gate(source);
      if (extra == Extra::kGateIsOut) args.gate = out(source);
      if (has_gate_weight) args.gate_weight = gate_weight(source);
      if (extra == Extra::kJoined) args.gate_weight = half(0);
      return args;
    });
    const std::string kernel(context().last_kernel_target());
    EXPECT_EQ(kernel, kernel_of(s, extra == Extra::kGate || extra == Extra::kGateIsOut));
    const bool gated = extra != Extra::kNone && extra != Extra::kAccumulate;
    const DType least = half_ulp(out_type) > half_ulp(dtype()) ? out_type : dtype();
    const bool twice =
        extra != Extra::kNone && out_type != DType::kF32 && s.kernel == std::string("cublaslt");
    OpBound bound = twice ? kLinearTwiceRoundedBound : kLinearBound;
    // No second team shares the sums of a thread, each of whose additions is cut off, not rounded.
    if (s.kernel == std::string("multicast")) bound.tight *= 1.5;
    // The table's sums are shorter; those of a gate have an error of their own.
    bound.tight *= std::sqrt(std::max(1.0, static_cast<double>(s.k) / 300)) * (gated ? 2 : 1);
    if (gated) {
      // A few large outputs make up most of the norm, and one of those may be near a tie.
      bound.tight += 0.2 * half_ulp(out_type);
      bound.loose = 3;
    }
    expect_conforms(out, everything(s.m), bound, least);
  }
  void expect_products(const std::vector<Sizes>& sizes) {
    for (const Sizes& s : sizes) {
      for (const DType out_type : {DType::kF32, dtype()}) {
        for (const Extra extra : {Extra::kNone, Extra::kAccumulate, Extra::kGate, Extra::kGateIsOut,
                                  Extra::kGateWeight, Extra::kJoined}) {
          expect_product(s, out_type, extra);
        }
      }
    }
  }
  /// Whether cuBLASLt is there, by what a product of many rows takes.
  bool has_cublas_lt() {
    Buffer x(dtype(), {129, 64}), w(dtype(), {64, 64}), out(dtype(), {129, 64});
    for (Buffer* b : {&x, &w}) b->fill(random.values(b->num_elements(), -1, 1));
    EXPECT_OK(linear(context(), {x.view(), w.view(), out.view()}));
    return context().last_kernel_target() == "cublaslt";
  }
};

INSTANTIATE_TEST_SUITE_P(Cuda, CudaLinear, ::testing::ValuesIn(product_setups()), setup_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaLinear);

TEST_P(CudaLinear, FewRows) {
  if (dtype() == DType::kF32) GTEST_SKIP() << "few rows of float32 go through cuBLASLt";
  expect_products(few_rows());
}

TEST_P(CudaLinear, FewRowsTakeTheNormInTheirStride) {
  if (dtype() != DType::kBF16) GTEST_SKIP() << "few rows take the norm for weights in bf16";
  for (const Sizes& s : few_rows()) {
    for (const bool gated : {false, true}) expect_normed(s, gated);
  }
}

TEST_P(CudaLinear, StreamedRows) {
  if (!streams()) GTEST_SKIP() << "no kernel for this type and device streams";
  for (const Sizes& s : streamed()) {
    for (const DType out_type : {DType::kF32, dtype()}) {
      for (const Extra extra :
           {Extra::kNone, Extra::kAccumulate, Extra::kGateWeight, Extra::kJoined}) {
        expect_product(s, out_type, extra);
      }
    }
  }
}

TEST_P(CudaLinear, RowsThatShareX) {
  if (!streams()) GTEST_SKIP() << "no kernel for this type and device shares x";
  // Several tiles cut into slices; with as many weights of a gate cuBLASLt takes it.
  for (const Extra extra : {Extra::kNone, Extra::kAccumulate}) {
    expect_product({66, 2'120, 2'440, "multicast"}, DType::kF32, extra);
  }
  for (const Sizes& s : multicast()) {
    for (const DType out_type : {DType::kF32, dtype()}) {
      for (const Extra extra : {Extra::kNone, Extra::kAccumulate, Extra::kGateWeight,
                                Extra::kJoined, Extra::kAddedGate}) {
        expect_product(s, out_type, extra);
      }
    }
  }
}

// Blocks that have many outputs of a tile store eight at a time: those of whole tiles and of a
// tile's beginning, over clusters and not.
TEST_P(CudaLinear, StreamedRowsInPieces) {
  if (!streams()) GTEST_SKIP() << "no kernel for this type and device streams";
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {13, 2120, 1288}, {19, 1096, 1288}, {32, 1096, 1288}, {30, 6152, 72}}) {
    for (const DType out_type : {DType::kF32, dtype()}) {
      for (const Extra extra :
           {Extra::kNone, Extra::kAccumulate, Extra::kGateWeight, Extra::kAddedGate}) {
        expect_product({m, n, k, "streamed"}, out_type, extra);
      }
    }
  }
}

TEST_P(CudaLinear, StreamedRowsTakeTheNormInTheirStride) {
  if (dtype() != DType::kBF16 || !streams()) GTEST_SKIP() << "weights in bf16, where they stream";
  for (const Sizes& s : streamed()) {
    for (const bool gated : {false, true}) expect_normed(s, gated);
  }
}

// A product that adds to a residual stream, and the one behind the norm of that.
TEST_P(CudaLinear, RowsHandANormOn) {
  if (dtype() != DType::kBF16 || !streams()) GTEST_SKIP() << "weights in bf16, where they stream";
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{1, 40, 2056},
                                                                        {7, 8, 72},
                                                                        {9, 1096, 1288},
                                                                        {27, 1096, 1288},
                                                                        {19, 1024, 2048},
                                                                        {32, 1024, 3584},
                                                                        {3, 6144, 1024},
                                                                        {30, 6144, 1024},
                                                                        {33, 1024, 3584},
                                                                        {64, 40, 2056},
                                                                        {65, 1096, 1288},
                                                                        {128, 1024, 2048}}) {
    SCOPED_TRACE(::testing::Message() << m << " " << n << " " << k);
    Operand x = values(dtype(), {m, k}, 1), w = values(dtype(), {n, k}, 1);
    Operand out = values(DType::kF32, {m, n}, 4), norm = values(DType::kF32, {n}, 0.5);
    Operand next = values(dtype(), {m, n}, 1), squares = values(DType::kF32, {m, n / 8}, 1);
    run(linear, reference::linear, [&](Source source) {
      LinearArgs args{x(source), w(source), out(source), true};
      args.next_norm = norm(source);
      args.next_x = next(source);
      args.next_squares = squares(source);
      return args;
    });
    const char* const kernel = m > 32 ? "multicast" : "streamed";
    EXPECT_EQ(context().last_kernel_target(), kernel);
    OpBound bound = kLinearBound;
    bound.tight *= std::sqrt(std::max(1.0, static_cast<double>(k) / 300));
    for (Operand* each : {&out, &squares}) {
      expect_conforms(*each, everything(m), bound, dtype());
    }
    bound.tight += half_ulp(dtype());
    bound.loose = 3;
    expect_conforms(next, everything(m), bound, dtype());

    // Outputs one by one, and in pieces; of 65 rows by pairs of blocks.
    for (const std::int64_t width : {70, m == 65 ? 4'200 : 2112}) {
      Operand next_w = values(dtype(), {width, n}, 1), gate = values(dtype(), {width, n}, 0.1);
      for (const bool gated : {false, true}) {
        Operand behind = values(gated ? dtype() : DType::kF32, {m, width}, 4);
        run(linear, reference::linear, [&](Source source) {
          LinearArgs args{next(source), next_w(source), behind(source)};
          args.x_squares = squares(source);
          if (gated) args.gate_weight = gate(source);
          return args;
        });
        EXPECT_EQ(context().last_kernel_target(), kernel);
        OpBound normed = kLinearBound;
        normed.tight = 4 * bound.tight + half_ulp(dtype());
        normed.loose = 4;
        expect_conforms(behind, everything(m), normed, dtype());
      }
    }
  }
}

TEST_P(CudaLinear, LargeMatricesOfManyInnerElementsAreLeftToCublasLt) {
  if (dtype() != DType::kBF16 || !streams() || !has_cublas_lt()) {
    GTEST_SKIP() << "weights in bf16, where both kernels are";
  }
  Operand x = values(dtype(), {64, 2'560}, 1), w = values(dtype(), {4'096, 2'560}, 1);
  Buffer out(DType::kF32, {64, 4'096}), next(dtype(), {64, 4'096}), squares(DType::kF32, {64, 512});
  Operand norm = values(DType::kF32, {4'096}, 0.5);
  LinearArgs args{x.kernel().view(), w.kernel().view(), out.view()};
  ASSERT_OK(linear(context(), args));
  EXPECT_EQ(context().last_kernel_target(), "cublaslt");
  args.next_norm = norm.kernel().view();
  args.next_x = next.view();
  args.next_squares = squares.view();
  EXPECT_FALSE(linear_takes(context(), args));
}

TEST_P(CudaLinear, WhatHandsNoNormOnSaysSo) {
  const std::int64_t m = streams() && dtype() == DType::kBF16 ? 129 : 3;
  Buffer x(dtype(), {m, 64}), w(dtype(), {64, 64}), out(DType::kF32, {m, 64});
  Buffer squares(DType::kF32, {m, 8});
  LinearArgs args{x.view(), w.view(), out.view()};
  EXPECT_TRUE(linear_takes(context(), args));
  args.x_squares = squares.view();
  EXPECT_FALSE(linear_takes(context(), args));
  EXPECT_ERROR(linear(context(), args), kUnsupported, "norms are handed on");
}

TEST_P(CudaLinear, ManyRowsBehindANorm) {
  if (!has_cublas_lt()) GTEST_SKIP() << "libcublasLt is not found";
  for (const bool gated : {false, true}) {
    expect_normed({33, 64, 1032, dtype() == DType::kBF16 ? some_rows() : "cublaslt"}, gated);
    expect_normed({129, 64, 1032, "cublaslt"}, gated);
    expect_normed({300, 96, 264, "cublaslt"}, gated);
  }
}

TEST_P(CudaLinear, ManyRowsThroughCublasLt) {
  if (!has_cublas_lt()) GTEST_SKIP() << "libcublasLt is not found";
  for (const Sizes& s : std::vector<Sizes>{
           {129, 64, 1032, "cublaslt"}, {140, 200, 72, "cublaslt"}, {300, 96, 264, "cublaslt"}}) {
    for (const DType out_type : {DType::kF32, dtype()}) {
      for (const Extra extra :
           {Extra::kNone, Extra::kGate, Extra::kGateIsOut, Extra::kGateWeight, Extra::kJoined}) {
        expect_product(s, out_type, extra);
      }
      expect_product(s, out_type, Extra::kAccumulate);
    }
  }
}

/// With batch_invariant a row's bits are the same in every number of rows, few and many.
TEST_P(CudaLinear, ABatchInvariantRowDoesNotDependOnTheRowsBesideIt) {
  const auto invariant = make_cuda_context("", true);
  for (const auto& [n, k] : std::vector<std::array<std::int64_t, 2>>{{200, 1032}, {2048, 512}}) {
    const std::int64_t most = 300;
    Operand x = values(dtype(), {most, k}, 1), w = values(dtype(), {n, k}, 1);
    Buffer all(dtype(), {most, n});
    const ConstTensorView rows = x.kernel().view();
    ASSERT_OK(linear(*invariant, {rows, w.kernel().view(), all.view()}));
    for (const std::int64_t m : {1, 2, 7, 8, 16, 33, 64, 65, 128, 129, 256}) {
      for (const std::int64_t first : {std::int64_t{0}, most - m}) {
        Buffer some(dtype(), {m, n});
        const ConstTensorView part = rows.at(first * rows.stride(0), {m, k}, {rows.stride(0), 1});
        ASSERT_OK(linear(*invariant, {part, w.kernel().view(), some.view()}));
        for (std::int64_t i = 0; i < m; ++i) {
          ASSERT_EQ(some.bytes(i), all.bytes(first + i)) << n << " " << m << " " << first;
        }
      }
    }
  }
}

TEST_P(CudaLinear, RunsOfOneCallAreBitEqual) {
  for (const std::int64_t m : {1, 16, 32, 64, 128, 200}) {
    Operand x = values(dtype(), {m, 1160}, 1), w = values(dtype(), {9'003, 1160}, 1);
    Buffer first(dtype(), {m, 9'003}), again(dtype(), {m, 9'003});
    ASSERT_OK(linear(context(), {x.kernel().view(), w.kernel().view(), first.view()}));
    for (int i = 0; i < 50; ++i) {
      ASSERT_OK(linear(context(), {x.kernel().view(), w.kernel().view(), again.view()}));
      ASSERT_EQ(again.values(), first.values()) << m;
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
