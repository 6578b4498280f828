#include <cmath>
#include <numeric>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {
namespace {

std::vector<double> row_of(const ConstTensorView& matrix, std::int64_t i) {
  std::vector<double> row;
  for (std::int64_t k = 0; k < matrix.dim(1); ++k) row.push_back(load(matrix, i, k));
  return row;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// A row of x as it enters the product.
std::vector<double> row_of_x(const LinearArgs& args, std::int64_t m) {
  std::vector<double> x = row_of(args.x, m);
  if (args.norm_weight.empty() && args.x_squares.empty()) return x;
  double squares = dot(x, x);
  if (!args.x_squares.empty()) {
    const std::vector<double> sums = row_of(args.x_squares, m);
    squares = std::accumulate(sums.begin(), sums.end(), 0.0);
  }
  const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + args.norm_epsilon);
  for (std::int64_t k = 0; k < args.x.dim(1); ++k) {
    x[static_cast<std::size_t>(k)] *=
        factor * (args.norm_weight.empty() ? 1 : 1 + load(args.norm_weight, k));
  }
  return x;
}

void hand_on(const LinearArgs& args, std::int64_t m) {
  for (std::int64_t i = 0; i < args.next_squares.dim(1); ++i) {
    double squares = 0;
    for (std::int64_t n = 8 * i; n < 8 * (i + 1); ++n) {
      const double x = load(args.out, m, n);
      store(args.next_x, x * (1 + load(args.next_norm, n)), m, n);
      squares += x * x;
    }
    store(args.next_squares, squares, m, i);
  }
}

}  // namespace

void linear(const LinearArgs& args) {
  std::vector<std::vector<double>> x;
  for (std::int64_t m = 0; m < args.x.dim(0); ++m) x.push_back(row_of_x(args, m));
  // Weights are made doubles once, not once for each row of x: most of the time of a large product.
  for (std::int64_t n = 0; n < args.weight.dim(0); ++n) {
    const std::vector<double> weight = row_of(args.weight, n);
    std::vector<double> gate_weight;
    if (!args.gate_weight.empty()) gate_weight = row_of(args.gate_weight, n);
    for (std::int64_t m = 0; m < args.x.dim(0); ++m) {
      const std::vector<double>& row = x[static_cast<std::size_t>(m)];
      double sum = dot(row, weight);
      if (!args.gate_weight.empty()) sum *= silu(dot(row, gate_weight));
      if (!args.gate.empty()) sum *= silu(load(args.gate, m, n));
      store(args.out, sum + (args.accumulate ? load(args.out, m, n) : 0.0), m, n);
    }
  }
  for (std::int64_t m = 0; m < args.x.dim(0) && !args.next_norm.empty(); ++m) hand_on(args, m);
}

}  // namespace hybridattn::reference
