#include "engine/serve/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>
#include <unordered_set>

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

// Logits are many: passes over them go in blocks of a fixed size, which compilers turn into
// vectors.
constexpr std::size_t kBlock = 1024;

/// Calls f(first, count) block after block, until it returns false. Whole blocks first.
template <class F>
bool for_blocks(std::size_t size, const F& f) {
  std::size_t i = 0;
  for (; i + kBlock <= size; i += kBlock) {
    if (!f(i, std::integral_constant<std::size_t, kBlock>())) return false;
  }
  return i == size || f(i, size - i);
}

/// Whether every logit is a number. Weights or caches with a NaN show here, before a token is
/// chosen.
bool all_finite(std::span<const float> logits) {
  return for_blocks(logits.size(), [&](std::size_t first, auto count) {
    // The largest magnitude as an integer: isfinite by itself takes a branch for each.
    std::int32_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
      most = std::max(most, std::bit_cast<std::int32_t>(logits[first + i]) & 0x7fffffff);
    }
    return most < std::int32_t{0xff} << 23;
  });
}

/// A logit that is no NaN as an integer of the same order; both zeros are one.
std::int32_t in_order(float logit) {
  const auto bits = std::bit_cast<std::int32_t>(logit + 0.0f);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

/// The first of the largest, where none is a NaN.
std::int32_t argmax_of_numbers(std::span<const float> logits) {
  // The first block that has it, then its place there.
  std::size_t best = 0;
  std::int32_t top = std::numeric_limits<std::int32_t>::min();
  for_blocks(logits.size(), [&](std::size_t first, auto count) {
    std::int32_t most = std::numeric_limits<std::int32_t>::min();
    for (std::size_t i = 0; i < count; ++i) most = std::max(most, in_order(logits[first + i]));
    if (most > top) {
      top = most;
      best = first;
    }
    return true;
  });
  while (best < logits.size() && in_order(logits[best]) != top) ++best;
  return static_cast<std::int32_t>(best);
}

/// A NaN in an order or in a sum would spoil all other ids: to the sampler it is the unlikeliest.
void drop_nans(std::span<float> logits) {
  if (all_finite(logits)) return;
  for (float& logit : logits) {
    if (std::isnan(logit)) logit = -std::numeric_limits<float>::infinity();
  }
}

void penalize(std::span<float> logits, std::span<const std::int32_t> history, float penalty) {
  if (penalty == 1.0f) return;
  const std::unordered_set<std::int32_t> seen(history.begin(), history.end());
  for (const std::int32_t id : seen) {
    if (id < 0 || static_cast<std::size_t>(id) >= logits.size()) continue;
    float& logit = logits[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

}  // namespace

Status SamplingParams::validate() const {
  if (!std::isfinite(temperature) || temperature < 0) {
    return invalid_argument("temperature is ", temperature, ", must be finite and at least 0");
  }
  if (top_k < 0) return invalid_argument("top-k is ", top_k, ", must be at least 0 (0 = off)");
  if (!(top_p > 0 && top_p <= 1))
    return invalid_argument("top-p is ", top_p, ", must be in (0, 1]");
  if (!(min_p >= 0 && min_p <= 1))
    return invalid_argument("min-p is ", min_p, ", must be in [0, 1]");
  if (!std::isfinite(repetition_penalty) || repetition_penalty <= 0) {
    return invalid_argument("repetition-penalty is ", repetition_penalty,
                            ", must be finite and above 0");
  }
  return {};
}

std::int32_t argmax(std::span<const float> logits) {
  if (all_finite(logits)) return argmax_of_numbers(logits);
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i) {
    // Written so that a NaN in front loses to any number.
    if (logits[i] > logits[best] || (std::isnan(logits[best]) && !std::isnan(logits[i]))) best = i;
  }
  return static_cast<std::int32_t>(best);
}

Status check_logits(std::span<const float> logits, std::size_t tokens) {
  return all_finite(logits) ? Status() : logits_error(tokens);
}

Status logits_error(std::size_t tokens) {
  return error(StatusCode::kInternal, "the logits after ", tokens,
               " tokens are not all finite; the weights hold a NaN or are out of float32's range");
}

double log_probability(std::span<const float> logits, std::int32_t id) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - top);
  return static_cast<double>(logits[static_cast<std::size_t>(id)]) - top - std::log(total);
}

Draw draw_of(const SamplingParams& params, std::int32_t limit, std::int64_t said) {
  Draw draw;
  draw.limit = limit;
  if (params.temperature == 0) return draw;
  draw.top_k = params.top_k;
  draw.scale = std::numbers::log2e_v<float> / params.temperature;
  draw.top_p = params.top_p;
  if (params.min_p > 0) draw.most_below = -params.temperature * std::log(params.min_p);
  // SplitMix64 of (seed, draw): the n-th draw of a request is the same in any batch.
  std::uint64_t x = params.seed + 0x9e3779b97f4a7c15u * (static_cast<std::uint64_t>(said) + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  draw.random = x ^ (x >> 31);
  return draw;
}

std::int32_t sample(const SamplingParams& params, std::span<float> all_logits,
                    std::span<const std::int32_t> history, std::int32_t limit, std::int64_t said) {
  const std::span<float> logits =
      all_logits.first(std::min(all_logits.size(), static_cast<std::size_t>(limit)));
  if (params.temperature > 0) {
    penalize(logits, history, params.repetition_penalty);
    return draw_token(logits, draw_of(params, static_cast<std::int32_t>(logits.size()), said)).id;
  }
  drop_nans(logits);
  penalize(logits, history, params.repetition_penalty);
  return argmax_of_numbers(logits);
}

}  // namespace hybridattn::engine
