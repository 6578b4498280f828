#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void sigmoid_gate(const SigmoidGateArgs& args) {
  for (std::int64_t t = 0; t < args.x.dim(0); ++t) {
    for (std::int64_t h = 0; h < args.x.dim(1); ++h) {
      for (std::int64_t i = 0; i < args.x.dim(2); ++i) {
        if (args.pad != nullptr && args.pad[t] != 0) {
          store(args.out, 0.0, t, h, i);
          continue;
        }
        store(args.out, load(args.x, t, h, i) * core::sigmoid(load(args.gate, t, h, i)), t, h, i);
      }
    }
  }
}

}  // namespace hybridattn::reference
