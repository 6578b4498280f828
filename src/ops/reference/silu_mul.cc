#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void silu_mul(const SiluMulArgs& args) {
  for (std::int64_t t = 0; t < args.gate.dim(0); ++t) {
    for (std::int64_t i = 0; i < args.gate.dim(1); ++i) {
      store(args.out, silu(load(args.gate, t, i)) * load(args.up, t, i), t, i);
    }
  }
}

}  // namespace hybridattn::reference
