#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void linear(const LinearArgs& args) {
  for (std::int64_t m = 0; m < args.x.dim(0); ++m) {
    for (std::int64_t n = 0; n < args.weight.dim(0); ++n) {
      double sum = 0, gate = 0;
      for (std::int64_t k = 0; k < args.x.dim(1); ++k) {
        sum += load(args.x, m, k) * load(args.weight, n, k);
        if (!args.gate_weight.empty()) gate += load(args.x, m, k) * load(args.gate_weight, n, k);
      }
      if (!args.gate_weight.empty()) sum *= silu(gate);
      if (!args.gate.empty()) sum *= silu(load(args.gate, m, n));
      store(args.out, sum + (args.accumulate ? load(args.out, m, n) : 0.0), m, n);
    }
  }
}

}  // namespace hybridattn::reference
