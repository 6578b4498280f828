// The scalar formulas of src/core/formulas.h in device code: the same ranges, the same thresholds.
#pragma once

#include <cfloat>
#include <cmath>

namespace hybridattn::cuda {

/// See core::clamp_log_decay.
template <class Real>
__device__ inline Real clamp_log_decay(Real g) {
  if (!(g > Real(-1e4))) return Real(-1e4);
  return g > Real(0) ? Real(0) : g;
}

/// See core::log_decay. In double: exp(A_log) carries the roundings of a whole model, and a decay
/// of exp(-20) shows them twenty times.
__device__ inline double log_decay(double a_log, double x) {
  double rate = exp(a_log);
  if (!(rate < double(FLT_MAX))) rate = double(FLT_MAX);
  const double soft = x > 20.0 ? x : log1p(exp(x));
  return clamp_log_decay(-rate * soft);
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
  const float soft = x > 20.0f ? x : log1pf(expf(x));
  return expf(clamp_log_decay(-rate * soft));
}

/// The factor exp(g) of a log decay as it was given.
__device__ inline float decay_factor(float log_decay) { return expf(clamp_log_decay(log_decay)); }

}  // namespace hybridattn::cuda
