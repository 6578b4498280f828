#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void linear(const LinearArgs& args) {
  for (std::int64_t m = 0; m < args.x.dim(0); ++m) {
    std::vector<double> x;
    double squares = 0;
    for (std::int64_t k = 0; k < args.x.dim(1); ++k) {
      x.push_back(load(args.x, m, k));
      squares += x.back() * x.back();
    }
    if (!args.norm_weight.empty()) {
      const double mean = squares / static_cast<double>(x.size());
      for (std::int64_t k = 0; k < args.x.dim(1); ++k) {
        x[static_cast<std::size_t>(k)] *=
            (1 + load(args.norm_weight, k)) / std::sqrt(mean + args.norm_epsilon);
      }
    }
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
  }
}

}  // namespace hybridattn::reference
