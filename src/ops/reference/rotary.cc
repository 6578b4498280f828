#include <algorithm>
#include <cmath>
#include <vector>

#include "src/core/formulas.h"
#include "src/ops/reference/element.h"
#include "src/ops/reference/reference.h"

namespace hybridattn::reference {

void rotary(const RotaryArgs& args) {
  const std::int64_t half = args.cos.dim(1);
  for (std::int64_t t = 0; t < args.x.dim(0); ++t) {
    for (std::int64_t h = 0; h < args.x.dim(1); ++h) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double lower = load(args.x, t, h, i);
        const double upper = load(args.x, t, h, i + half);
        const double c = load(args.cos, t, i);
        const double s = load(args.sin, t, i);
        store(args.out, lower * c - upper * s, t, h, i);
        store(args.out, upper * c + lower * s, t, h, i + half);
      }
      for (std::int64_t i = 2 * half; i < args.x.dim(2); ++i) {
        store(args.out, load(args.x, t, h, i), t, h, i);
      }
    }
  }
}

namespace {

/// The position whose angle frequency i has: a list of who takes which, not the rule itself.
std::int64_t position_of(const RotaryTableArgs& args, std::int64_t t, std::int64_t i) {
  if (args.height == nullptr) return args.positions[t];
  std::vector<const std::int64_t*> taken(static_cast<std::size_t>(args.cos.dim(1)), args.positions);
  for (std::size_t n = 1; n < std::min<std::size_t>(taken.size(), 3 * args.sections[1]); n += 3) {
    taken[n] = args.height;
  }
  for (std::size_t n = 2; n < std::min<std::size_t>(taken.size(), 3 * args.sections[2]); n += 3) {
    taken[n] = args.width;
  }
  return taken[static_cast<std::size_t>(i)][t];
}

}  // namespace

void rotary_table(const RotaryTableArgs& args) {
  for (std::int64_t t = 0; t < args.cos.dim(0); ++t) {
    for (std::int64_t i = 0; i < args.rotary_dim / 2; ++i) {
      const double frequency =
          1.0 / std::pow(args.theta, 2.0 * static_cast<double>(i) / args.rotary_dim);
      const double angle = static_cast<double>(position_of(args, t, i)) * frequency;
      store(args.cos, std::cos(angle), t, i);
      store(args.sin, std::sin(angle), t, i);
    }
  }
}

}  // namespace hybridattn::reference
