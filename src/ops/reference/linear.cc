#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

namespace {

/// A row of x as it enters the product.
std::vector<double> row_of_x(const LinearArgs& args, std::int64_t m) {
  std::vector<double> x;
  double squares = 0;
  for (std::int64_t k = 0; k < args.x.dim(1); ++k) {
    x.push_back(load(args.x, m, k));
    squares += x.back() * x.back();
  }
  if (!args.x_squares.empty()) {
    squares = 0;
    for (std::int64_t i = 0; i < args.x_squares.dim(1); ++i) squares += load(args.x_squares, m, i);
  }
  if (args.norm_weight.empty() && args.x_squares.empty()) return x;
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
  for (std::int64_t m = 0; m < args.x.dim(0); ++m) {
    const std::vector<double> x = row_of_x(args, m);
    for (std::int64_t n = 0; n < args.weight.dim(0); ++n) {
      double sum = 0, gate = 0;
      for (std::int64_t k = 0; k < args.x.dim(1); ++k) {
        const double factor = x[static_cast<std::size_t>(k)];
        sum += factor * load(args.weight, n, k);
        if (!args.gate_weight.empty()) gate += factor * load(args.gate_weight, n, k);
      }
      if (!args.gate_weight.empty()) sum *= silu(gate);
      if (!args.gate.empty()) sum *= silu(load(args.gate, m, n));
      store(args.out, sum + (args.accumulate ? load(args.out, m, n) : 0.0), m, n);
    }
    if (!args.next_norm.empty()) hand_on(args, m);
  }
}

}  // namespace hybridattn::reference
