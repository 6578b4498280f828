// The scalar formulas that must exist once: every kernel and every reference calls these.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

// Kernels in CUDA C++ call them too.
#ifdef __CUDACC__
#define HYBRIDATTN_HOST_DEVICE __host__ __device__
#else
#define HYBRIDATTN_HOST_DEVICE
#endif

namespace hybridattn::core {

/// Above it softplus(x) is x.
inline constexpr double kSoftplusThreshold = 20.0;

/// log(1 + e^x), and x itself above 20, as torch has it (the difference there is under 2.1e-9).
HYBRIDATTN_HOST_DEVICE inline double softplus(double x) {
  return x > kSoftplusThreshold ? x : std::log1p(std::exp(x));
}

/// The range that log decays are cut to. exp(-1e4) is 0 in every type at hand.
inline constexpr double kMinLogDecay = -1e4;

/// NaN and -inf become the minimum, positive values 0: nothing that enters an exponent can
/// overflow.
HYBRIDATTN_HOST_DEVICE inline double clamp_log_decay(double g) {
  if (!(g > kMinLogDecay)) return kMinLogDecay;
  return g > 0.0 ? 0.0 : g;
}

/// g = -exp(A_log) * softplus(x), exp cut at the largest finite float so that inf * 0 cannot be.
HYBRIDATTN_HOST_DEVICE inline double log_decay(double a_log, double x) {
  double rate = std::exp(a_log);
  const double largest = std::numeric_limits<float>::max();
  if (!(rate < largest)) rate = largest;
  return clamp_log_decay(-rate * softplus(x));
}

HYBRIDATTN_HOST_DEVICE inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// The key (or key-value) head that a value (or query) head reads: heads are grouped, not tiled.
constexpr std::int64_t key_head(std::int64_t head, std::int64_t group) { return head / group; }

/// Which of a token's three positions (0 time, 1 height, 2 width) gives the angle of frequency i
/// where they are interleaved.
constexpr int mrope_axis(std::int64_t i, std::int64_t height_section, std::int64_t width_section) {
  if (i % 3 == 1 && i < 3 * height_section) return 1;
  if (i % 3 == 2 && i < 3 * width_section) return 2;
  return 0;
}

/// Half-open range of the keys that a query sees.
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};

/// Query i of n new ones over kv_length keys: causal from the bottom right, the window counting the
/// current key; or everything.
constexpr KeyRange visible_keys(std::int64_t i, std::int64_t n, std::int64_t kv_length, bool causal,
                                std::int64_t window) {
  if (!causal) return {0, kv_length};
  const std::int64_t end = kv_length - n + i + 1;
  if (end <= 0) return {0, 0};
  const std::int64_t begin = window > 0 && end > window ? end - window : 0;
  return {begin, end};
}

}  // namespace hybridattn::core
