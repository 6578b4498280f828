#include <cmath>
#include <vector>

#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void linear_int8(const LinearInt8Args& args) {
  const std::int64_t inner = args.x.dim(1);
  std::vector<double> q(static_cast<std::size_t>(inner));
  for (std::int64_t m = 0; m < args.x.dim(0); ++m) {
    float top = 0;
    bool finite = true;
    for (std::int64_t k = 0; k < inner; ++k) {
      const auto x = static_cast<float>(load(args.x, m, k));
      finite = finite && std::isfinite(x);
      top = std::fmax(top, std::fabs(x));
    }
    // Which integers come out is part of the definition: these steps are in float.
    const float factor = top > 0x1p-100f ? 127.0f / top : 0.0f;
    for (std::int64_t k = 0; k < inner; ++k) {
      q[static_cast<std::size_t>(k)] =
          std::nearbyint(static_cast<float>(load(args.x, m, k)) * factor);
    }
    const double scale = !finite ? NAN : factor > 0 ? double{top} / 127 : 0.0;
    for (std::int64_t n = 0; n < args.weight.dim(0); ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < inner; ++k) {
        sum += q[static_cast<std::size_t>(k)] * load(args.weight, n, k);
      }
      sum *= scale * load(args.weight_scale, n);
      if (!args.gate.empty()) sum *= silu(load(args.gate, m, n));
      store(args.out, sum + (args.accumulate ? load(args.out, m, n) : 0.0), m, n);
    }
  }
}

}  // namespace hybridattn::reference
