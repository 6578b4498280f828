// What a scale of a cache may be.
#pragma once

#include <cmath>

#include "src/core/arg_check.h"

namespace hybridattn::ops {

inline void check_cache_scale(core::ArgCheck& check, const char* name, float scale) {
  check.require(std::isfinite(scale) && scale > 0, name, " is ", scale,
                ", must be finite and positive (1 = off)");
}

}  // namespace hybridattn::ops
