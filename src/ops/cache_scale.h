// What the scales of a cache may be.
#pragma once

#include <cmath>

#include "src/core/arg_check.h"
#include "src/core/head_scales.h"

namespace hybridattn::ops {

inline void check_cache_scale(core::ArgCheck& check, const char* name, float scale) {
  check.require(std::isfinite(scale) && scale > 0, name, " is ", scale,
                ", must be finite and positive (1 = off)");
}

/// The scale of all heads and the optional ones of each, of which one is to be given.
inline void check_cache_scales(core::ArgCheck& check, const char* name, float scale,
                               const char* each_name, const ConstTensorView& each) {
  check_cache_scale(check, name, scale);
  check.optional_input(each_name, each, {"HK"}, core::Dtypes::kF32);
  check.require(each.empty() || scale == 1.0f, name, " is ", scale, ", must be 1 beside ",
                each_name);
}

inline core::HeadScales head_scales(float scale, const ConstTensorView& each) {
  return {scale, static_cast<const float*>(each.data)};
}

}  // namespace hybridattn::ops
