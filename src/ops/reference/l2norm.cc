#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void l2norm(const L2NormArgs& args) {
  for (std::int64_t t = 0; t < args.x.dim(0); ++t) {
    for (std::int64_t h = 0; h < args.x.dim(1); ++h) {
      double sum = 0;
      for (std::int64_t i = 0; i < args.x.dim(2); ++i)
        sum += load(args.x, t, h, i) * load(args.x, t, h, i);
      const double factor = static_cast<double>(args.scale) / std::sqrt(sum + 1e-6);
      for (std::int64_t i = 0; i < args.x.dim(2); ++i) {
        store(args.out, load(args.x, t, h, i) * factor, t, h, i);
      }
    }
  }
}

}  // namespace hybridattn::reference
