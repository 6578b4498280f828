#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void gated_rms_norm(const GatedRmsNormArgs& args) {
  const std::int64_t dim = args.weight.dim(0);
  for (std::int64_t t = 0; t < args.x.dim(0); ++t) {
    for (std::int64_t h = 0; h < args.x.dim(1); ++h) {
      if (args.pad != nullptr && args.pad[t] == kLeftOut) continue;
      if (args.pad != nullptr && args.pad[t] != kNormed) {
        for (std::int64_t i = 0; i < dim; ++i) store(args.out, 0.0, t, h, i);
        continue;
      }
      double sum = 0;
      for (std::int64_t i = 0; i < dim; ++i) sum += load(args.x, t, h, i) * load(args.x, t, h, i);
      const double root =
          std::sqrt(sum / static_cast<double>(dim) + static_cast<double>(args.epsilon));
      for (std::int64_t i = 0; i < dim; ++i) {
        const double z = load(args.z, t, h, i);
        const double gate = core::sigmoid(z) * (args.gate == GateKind::kSilu ? z : 1.0);
        store(args.out, load(args.x, t, h, i) / root * load(args.weight, i) * gate, t, h, i);
      }
    }
  }
}

}  // namespace hybridattn::reference
