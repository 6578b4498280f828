// The matrix product at the shapes of a small hybrid model: weights come from memory, never from a
// cache.
#include <cmath>

#include "bench/cpu/memory.h"
#include "bench/cpu/suites.h"
#include "bench/cpu/timing.h"
#include "bench/require.h"
#include "hybridattn/ops/linear.h"

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

struct Problem {
  std::int64_t m, n, k, copies;
  BigBlock weights, x, out;

  Problem(std::int64_t rows, std::int64_t columns, std::int64_t inner)
      : m(rows), n(columns), k(inner), copies(kRotated / (columns * inner * 2) + 1),
        weights(copies * columns * inner * 2), x(rows * inner * 2), out(rows * columns * 4) {
    Values values;
    for (std::int64_t i = 0; i < n * k; ++i) bf16(weights)[i] = to_bf16(values.next());
    for (std::int64_t i = 0; i < m * k; ++i) bf16(x)[i] = to_bf16(values.next());
    for (std::int64_t i = 1; i < copies; ++i) {
      std::memcpy(weights.data() + i * n * k * 2, weights.data(),
                  static_cast<std::size_t>(n * k * 2));
    }
  }
  static BF16* bf16(const BigBlock& block) { return reinterpret_cast<BF16*>(block.data()); }

  void run(Context& context, std::int64_t copy) const {
    const ConstTensorView weight(bf16(weights) + copy % copies * n * k, DType::kBF16, {n, k});
    require_ok(linear(context, {ConstTensorView(x.data(), DType::kBF16, {m, k}), weight,
                                TensorView(out.data(), DType::kF32, {m, n}), false}));
  }
  /// Compares some of the outputs with sums in double.
  void check() const {
    const auto* got = reinterpret_cast<const float*>(out.data());
    for (std::int64_t i = 0; i < 100; ++i) {
      const std::int64_t row = i * 7 % m, column = i * 2029 % n;
      double want = 0, size = 0;
      for (std::int64_t j = 0; j < k; ++j) {
        const double term =
            double{to_float(bf16(x)[row * k + j])} * to_float(bf16(weights)[column * k + j]);
        want += term;
        size += term * term;
      }
      require(
          std::abs(got[row * n + column] - want) <= 1e-5 * std::sqrt(size * static_cast<double>(k)),
          "linear: the answer is wrong");
    }
  }
};

}  // namespace

void run_linear(Context& context, const Ceilings& ceilings, Report& report) {
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{3584, 1024}, {1024, 3584}}) {
    for (const std::int64_t m : {1, 4, 8, 16, 32, 64, 128, 512, 2048}) {
      const Problem problem(m, n, k);
      const Times t = time_calls(kSeconds, [&](std::int64_t i) { problem.run(context, i); });
      problem.check();
      const double flop = 2.0 * static_cast<double>(m * n * k);
      const double bytes = 2.0 * static_cast<double>(n * k);
      const double rate = ceilings.tiles > 0      ? ceilings.tiles
                          : ceilings.bf16_dot > 0 ? ceilings.bf16_dot
                                                  : ceilings.fma;
      report.row({{"suite", std::string("linear")},
                  {"kernel", std::string(context.last_kernel_target())},
                  {"m", m},
                  {"n", n},
                  {"k", k},
                  {"us", t.median * 1e6, 0},
                  {"best_us", t.best * 1e6, 0},
                  {"weight_gb_per_s", bytes / t.median / 1e9, 1},
                  {"of_read", bytes / t.median / ceilings.read, 2},
                  {"gflop_per_s", flop / t.median / 1e9, 0},
                  {"of_rate", rate > 0 ? flop / t.median / rate : 0, 2}});
    }
  }
}

}  // namespace hybridattn::bench
