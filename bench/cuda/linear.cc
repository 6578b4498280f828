// Matrix products on the GPU: weights from memory, not from the cache, at the shapes of models.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "hybridattn/ops/linear.h"

namespace hybridattn::bench {
namespace {

/// [N, K]. `gated`: with as many weights of a gate in front.
struct Weights {
  const char* name;
  std::int64_t n, k;
  bool gated;
};
constexpr Weights kWeights[] = {
    {"0.8B gdn in", 8224, 1024, false},       {"0.8B gdn out", 1024, 2048, false},
    {"0.8B mlp gated", 3584, 1024, true},     {"0.8B mlp down", 1024, 3584, false},
    {"0.8B vocabulary", 248320, 1024, false}, {"4B gdn in", 12352, 2560, false},
    {"4B mlp gated", 9216, 2560, true},       {"4B mlp down", 2560, 9216, false},
};
constexpr std::int64_t kRows[] = {1, 2, 4, 8, 16, 32, 64, 128, 512, 2048};
/// Copies of the weights that are read in turn, so that no cache holds what is read next.
constexpr std::int64_t kSweptBytes = std::int64_t{192} << 20;

std::vector<DeviceTensor> make_copies(const Weights& w) {
  const double bound = std::sqrt(3.0 / static_cast<double>(w.k));
  const std::int64_t rows = w.gated ? 2 * w.n : w.n;
  std::vector<DeviceTensor> copies;
  for (std::int64_t bytes = 0; bytes == 0 || bytes < kSweptBytes; bytes += rows * w.k * 2) {
    copies.emplace_back(DType::kBF16, std::vector<std::int64_t>{rows, w.k}, -bound, bound);
  }
  return copies;
}

/// `weights`: borrowed, the same matrix in several places.
class Product {
 public:
  Product(const Weights& w, const std::vector<DeviceTensor>& weights, std::int64_t m)
      : w_(w), m_(m), x_(DType::kBF16, {m, w.k}, -1, 1), out_(DType::kBF16, {m, w.n}, 0, 0),
        weights_(weights) {}
  std::int64_t bytes() const { return weights_[0].bytes(); }
  double flop() const {
    return 2.0 * static_cast<double>(m_) * static_cast<double>(weights_[0].view().num_elements());
  }
  LinearArgs args(std::size_t copy) const {
    const TensorView all = weights_[copy].view();
    LinearArgs args;
    args.x = x_.view();
    args.out = out_.view();
    const auto half = [&](std::int64_t i) {
      return all.at(i * w_.n * w_.k, {w_.n, w_.k}, {w_.k, 1});
    };
    args.weight = half(w_.gated ? 1 : 0);
    if (w_.gated) args.gate_weight = half(0);
    return args;
  }
  std::size_t copies() const { return weights_.size(); }

  /// The last row of the output against sums of the host.
  void check(Context& context) const {
    require(linear(context, args(0)).ok(), "linear: the call failed");
    require(context.synchronize().ok(), "linear: the call failed");
    const std::vector<float> x = x_.read((m_ - 1) * w_.k, w_.k);
    const std::int64_t count = std::min<std::int64_t>(w_.n, 64);
    const auto sum = [&](std::int64_t row) {
      const std::vector<float> weight = weights_[0].read(row * w_.k, w_.k);
      double total = 0;
      for (std::size_t k = 0; k < x.size(); ++k) total += double{x[k]} * double{weight[k]};
      return total;
    };
    std::vector<float> wanted;
    for (std::int64_t n = 0; n < count; ++n) {
      if (!w_.gated) {
        wanted.push_back(static_cast<float>(sum(n)));
        continue;
      }
      const double gate = sum(n);
      wanted.push_back(static_cast<float>(gate / (1 + std::exp(-gate)) * sum(w_.n + n)));
    }
    require(relative_error(out_.read((m_ - 1) * w_.n, count), wanted) < 8e-3,
            "linear: a wrong answer");
  }

 private:
  Weights w_;
  std::int64_t m_;
  DeviceTensor x_, out_;
  const std::vector<DeviceTensor>& weights_;
};

void measure(Context& context, cudaStream_t stream, const Weights& w,
             const std::vector<DeviceTensor>& weights, std::int64_t m, double copy_rate,
             Report& report) {
  const Product product(w, weights, m);
  product.check(context);
  const std::string kernel(context.last_kernel_target());
  std::vector<std::function<Status()>> calls;
  for (std::size_t i = 0; i < product.copies(); ++i) {
    calls.push_back([&, i] { return linear(context, product.args(i)); });
  }
  const double us = time_in_graph(stream, calls);
  const double rate = static_cast<double>(product.bytes()) / us * 1e6;
  report.row({{"suite", std::string("linear")},
              {"weights", std::string(w.name)},
              {"n", w.n},
              {"k", w.k},
              {"m", m},
              {"kernel", kernel},
              {"us", us, 2},
              {"weights_tb_per_s", rate / 1e12, 2},
              {"of_copy", rate / copy_rate, 2},
              {"tflop_per_s", product.flop() / us / 1e6, 1}});
}

}  // namespace

void run_linear(Context& context, cudaStream_t stream, double copy_rate, Report& report) {
  for (const Weights& w : kWeights) {
    const std::vector<DeviceTensor> weights = make_copies(w);
    for (const std::int64_t m : kRows) {
      if (m * w.n > std::int64_t{1} << 28) continue;  // logits of thousands of tokens
      measure(context, stream, w, weights, m, copy_rate, report);
    }
  }
}

}  // namespace hybridattn::bench
