#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void rms_norm(const RmsNormArgs& args) {
  const bool heads = args.x.rank == 3;
  const std::int64_t dim = args.weight.dim(0);
  for (std::int64_t t = 0; t < args.x.dim(0); ++t) {
    for (std::int64_t h = 0; h < (heads ? args.x.dim(1) : 1); ++h) {
      const auto x = [&](std::int64_t i) {
        return heads ? load(args.x, t, h, i) : load(args.x, t, i);
      };
      double sum = 0;
      for (std::int64_t i = 0; i < dim; ++i) sum += x(i) * x(i);
      const double root =
          std::sqrt(sum / static_cast<double>(dim) + static_cast<double>(args.epsilon));
      for (std::int64_t i = 0; i < dim; ++i) {
        const double weight = load(args.weight, i) + (args.zero_centered ? 1.0 : 0.0);
        const double y = x(i) / root * weight;
        heads ? store(args.out, y, t, h, i) : store(args.out, y, t, i);
      }
    }
  }
}

}  // namespace hybridattn::reference
