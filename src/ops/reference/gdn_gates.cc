#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void gdn_gates(const GdnGatesArgs& args) {
  for (std::int64_t t = 0; t < args.a.dim(0); ++t) {
    for (std::int64_t h = 0; h < args.a.dim(1); ++h) {
      for (std::int64_t c = 0; c < (args.a.rank == 3 ? args.a.dim(2) : 1); ++c) {
        const double x = load(args.a, t, h, c) + load(args.dt_bias, h, c);
        store(args.log_decay, core::log_decay(load(args.a_log, h), x), t, h, c);
      }
      store(args.beta, (args.allow_neg_eigval ? 2.0 : 1.0) * core::sigmoid(load(args.b, t, h)), t,
            h);
    }
  }
}

}  // namespace hybridattn::reference
