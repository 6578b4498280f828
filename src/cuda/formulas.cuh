// The scalar formulas of src/core/formulas.h in float, for kernels where double would show: the
// same ranges, the same thresholds.
#pragma once

#include <cfloat>
#include <cmath>

#include "src/core/formulas.h"

namespace hybridattn::cuda {

/// core::clamp_log_decay in float.
__device__ inline float clamp_log_decay(float g) {
  constexpr auto kMin = static_cast<float>(core::kMinLogDecay);
  if (!(g > kMin)) return kMin;
  return g > 0.0f ? 0.0f : g;
}

/// Quotients and inverse roots to 2 units in the last place. The correctly rounded forms call a
/// subroutine, for which a kernel must keep a stack.
__device__ inline float quotient(float a, float b) { return __fdividef(a, b); }
__device__ inline float inverse_root(float x) { return rsqrtf(x); }

__device__ inline float sigmoid(float x) { return quotient(1.0f, 1.0f + expf(-x)); }
__device__ inline float silu(float x) { return quotient(x, 1.0f + expf(-x)); }

/// exp(g) in float: where g has lost digits the factor is small, so its own error stays under 2e-7.
__device__ inline float decay_factor(float a_log, float x) {
  float rate = expf(a_log);
  if (!(rate < FLT_MAX)) rate = FLT_MAX;
  const float soft = x > static_cast<float>(core::kSoftplusThreshold) ? x : log1pf(expf(x));
  return expf(clamp_log_decay(-rate * soft));
}

/// The factor exp(g) of a log decay as it was given.
__device__ inline float decay_factor(float log_decay) { return expf(clamp_log_decay(log_decay)); }

}  // namespace hybridattn::cuda
