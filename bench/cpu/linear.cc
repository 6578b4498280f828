// The matrix product at the shapes of a small hybrid model: weights come from memory, never from a
// cache.
#include <cmath>
#include <vector>

#include "bench/cpu/memory.h"
#include "bench/cpu/suites.h"
#include "bench/cpu/timing.h"
#include "bench/require.h"
#include "hybridattn/ops/linear.h"
#include "hybridattn/ops/linear_int8.h"
#include "hybridattn/ops/silu_mul.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kRotated = std::int64_t{1} << 30;  // bytes of weights between two uses
constexpr double kSeconds = 0.4;

/// Values in [-1, 1) of a small generator.
class Values {
 public:
  float next() {
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<std::int32_t>(state_) >> 8) / (1 << 23);
  }

 private:
  std::uint32_t state_ = 1;
};

/// Weights in bf16 or, with a scale for each row, in bytes.
struct Problem {
  std::int64_t m, n, k, size, copies;
  BigBlock weights, scales, x, out;

  Problem(std::int64_t rows, std::int64_t columns, std::int64_t inner, std::int64_t weight_size)
      : m(rows), n(columns), k(inner), size(weight_size),
        copies(kRotated / (columns * inner * size) + 1), weights(copies * columns * inner * size),
        scales(columns * 4), x(rows * inner * 2), out(rows * columns * 4) {
    Values values;
    for (std::int64_t i = 0; i < n * k; ++i) {
      const float value = values.next();
      if (size == 2) {
        bf16(weights)[i] = to_bf16(value);
      } else {
        weights.data()[i] = static_cast<std::byte>(std::lround(value * 127));
      }
    }
    for (std::int64_t i = 0; i < n; ++i) floats(scales)[i] = 1.0f / 127;
    for (std::int64_t i = 0; i < m * k; ++i) bf16(x)[i] = to_bf16(values.next());
    for (std::int64_t i = 1; i < copies; ++i) {
      std::memcpy(weights.data() + i * n * k * size, weights.data(),
                  static_cast<std::size_t>(n * k * size));
    }
  }
  static BF16* bf16(const BigBlock& block) { return reinterpret_cast<BF16*>(block.data()); }
  static float* floats(const BigBlock& block) { return reinterpret_cast<float*>(block.data()); }

  void run(Context& context, std::int64_t copy) const {
    const std::byte* from = weights.data() + copy % copies * n * k * size;
    const ConstTensorView rows(x.data(), DType::kBF16, {m, k});
    const TensorView results(out.data(), DType::kF32, {m, n});
    if (size == 2) {
      const ConstTensorView weight(from, DType::kBF16, {n, k});
      require_ok(linear(context, {rows, weight, results, false}));
      return;
    }
    const ConstTensorView weight(from, DType::kI8, {n, k});
    const ConstTensorView scale(scales.data(), DType::kF32, {n});
    require_ok(linear_int8(context, {rows, weight, scale, results, false}));
  }
  double weight(std::int64_t i) const {
    return size == 2 ? to_float(bf16(weights)[i])
                     : static_cast<std::int8_t>(weights.data()[i]) / 127.0;
  }
  /// Compares some of the outputs with sums in double.
  void check() const {
    // Bytes: x is off by up to half a step of 1 / 127, sums by a few times the root of K of them.
    const double unit = size == 2 ? 1e-5 : 0.02;
    for (std::int64_t i = 0; i < 100; ++i) {
      const std::int64_t row = i * 7 % m, column = i * 2029 % n;
      double want = 0, squares = 0;
      for (std::int64_t j = 0; j < k; ++j) {
        const double term = double{to_float(bf16(x)[row * k + j])} * weight(column * k + j);
        want += term;
        squares += term * term;
      }
      const double bound = unit * std::sqrt(squares * static_cast<double>(size == 2 ? k : 1));
      require(std::abs(floats(out)[row * n + column] - want) <= bound,
              "linear: the answer is wrong");
    }
  }
};

void measure(Context& context, CeilingProbe& probe, const Problem& problem, Report& report) {
  const BesideCeilings t(probe, kSeconds, [&](std::int64_t i) { problem.run(context, i); });
  problem.check();
  const double flop = 2.0 * static_cast<double>(problem.m * problem.n * problem.k);
  const double bytes = static_cast<double>(problem.size * problem.n * problem.k);
  report.row(
      {{"suite", std::string("linear")},
       {"kernel", std::string(context.last_kernel_target())},
       {"weights", std::string(problem.size == 2 ? "bf16" : "i8")},
       {"m", problem.m},
       {"n", problem.n},
       {"k", problem.k},
       {"us", t.median() * 1e6, 0},
       {"best_us", t.best() * 1e6, 0},
       {"weight_gb_per_s", bytes / t.median() / 1e9, 1},
       {"of_read", t.share(bytes, [](const Ceilings& c) { return c.read; }), 2},
       {"gflop_per_s", flop / t.median() / 1e9, 0},
       {"of_rate", t.share(flop, [&](const Ceilings& c) { return product_rate(c, problem.size); }),
        2}});
}

/// The second product of a feed-forward network with its gate in it, beside both apart.
void measure_gate(Context& context, std::int64_t m, Report& report) {
  constexpr std::int64_t n = 3584, k = 1024;
  const Problem problem(m, n, k, 2);
  const BigBlock values(m * n * 2), products(m * n * 2), results(m * n * 2);
  Values random;
  for (std::int64_t i = 0; i < m * n; ++i) Problem::bf16(values)[i] = to_bf16(random.next());
  const ConstTensorView x(problem.x.data(), DType::kBF16, {m, k});
  const ConstTensorView gate(values.data(), DType::kBF16, {m, n});
  const TensorView up(products.data(), DType::kBF16, {m, n});
  const TensorView out(results.data(), DType::kBF16, {m, n});
  const auto weight = [&](std::int64_t i) {
    const std::byte* from = problem.weights.data() + i % problem.copies * n * k * 2;
    return ConstTensorView(from, DType::kBF16, {n, k});
  };
  const Times apart = time_calls(kSeconds, [&](std::int64_t i) {
    require_ok(linear(context, {x, weight(i), up}));
    require_ok(silu_mul(context, {gate, up, out}));
  });
  std::vector<float> want;
  for (std::int64_t i = 0; i < m * n; ++i) want.push_back(to_float(Problem::bf16(results)[i]));
  const Times t = time_calls(kSeconds, [&](std::int64_t i) {
    require_ok(linear(context, {x, weight(i), out, false, gate}));
  });
  for (std::int64_t i = 0; i < m * n; ++i) {
    const float a = want[static_cast<std::size_t>(i)], b = to_float(Problem::bf16(results)[i]);
    require(std::abs(a - b) <= 0.02f * std::abs(a), "linear: the gated answer is wrong");
  }
  report.row({{"suite", std::string("linear")},
              {"kernel", std::string(context.last_kernel_target())},
              {"weights", std::string("bf16, gated")},
              {"m", m},
              {"n", n},
              {"k", k},
              {"us", t.median * 1e6, 0},
              {"best_us", t.best * 1e6, 0},
              {"apart_us", apart.median * 1e6, 0}});
}

}  // namespace

void run_linear(Context& context, const Ceilings&, Report& report) {
  CeilingProbe probe(context);
  for (const std::int64_t size : {2, 1}) {
    for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{3584, 1024}, {1024, 3584}}) {
      for (const std::int64_t m : {1, 4, 8, 16, 32, 64, 128, 512, 2048}) {
        measure(context, probe, Problem(m, n, k, size), report);
      }
    }
  }
  for (const std::int64_t m : {1, 32, 512}) measure_gate(context, m, report);
}

}  // namespace hybridattn::bench
