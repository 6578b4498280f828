// Drawing tokens from logits where they lie. Weights are integers, whose sums do not depend on
// their order: the CPU and a GPU draw the same token from the same logits.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "engine/ops/greedy.h"

namespace hybridattn::engine {

/// What decides one draw. In order: temperature, top-k, top-p, min-p, the draw.
struct Draw {
  std::int32_t limit = 0;  ///< ids below it may be drawn
  std::int32_t top_k = 0;  ///< the first so many, by falling logit, then by rising id; 0 = all
  float scale = 0;         ///< log2(e) / temperature; 0: the largest logit is taken, nothing drawn
  float top_p = 1;         ///< of those the fewest first ones that have this share of the weight
  /// Of those the ones whose logit is at most so far below the largest: -temperature ln(min-p).
  float most_below = std::numeric_limits<float>::infinity();
  std::uint64_t random = 0;  ///< uniform
};

/// tokens[i] from row i of logits [M, V] f32. `device_draws` is the same as `draws`, where kernels
/// read it; `tokens` lies there too. A NaN counts as minus infinity. Errors: device_error.
Status draw_tokens(Context& context, const ConstTensorView& logits, const Draw* draws,
                   const Draw* device_draws, NextToken* tokens);
/// One row of the host.
NextToken draw_token(std::span<const float> logits, const Draw& draw);

// ---- The arithmetic, of both devices.

/// 2^-(below * scale), the weight of a logit so far below the largest, in units of 2^-40.
constexpr std::uint64_t draw_weight(float below, float scale) {
  if (below == 0) return std::uint64_t{1} << 40;
  const float x = below * scale;
  if (!(x < 41)) return 0;
  const auto fixed = static_cast<std::uint64_t>(x * 0x1p24f);
  const std::uint64_t fraction = (fixed & 0xffffff) << 8;
  // ln(2)^k / k!, k from 9 down to 1, and all that follows in units of 2^-32.
  constexpr std::uint32_t kTerms[] = {437,      5676,      65510,      661577,    5726720,
                                      41309550, 238388332, 1031764991, 2977044472};
  std::uint64_t sum = 0;
  for (const std::uint32_t term : kTerms) sum = term - (fraction * sum >> 32);
  const std::uint64_t power = (std::uint64_t{1} << 32) - (fraction * sum >> 32);
  return power << 8 >> (fixed >> 24);
}

/// How far a logit is below the largest: 0 where they are equal, infinities too.
constexpr float draw_below(float logit, float most) { return logit == most ? 0 : most - logit; }

/// The share `top_p` of a total of weights, rounded up.
constexpr std::uint64_t draw_target(float top_p, std::uint64_t total) {
  const double exact = static_cast<double>(top_p) * static_cast<double>(total);
  const auto whole = static_cast<std::uint64_t>(exact);
  return whole + (static_cast<double>(whole) < exact ? 1 : 0);
}

/// The place of a draw in the weights of all that may be drawn: below `total`.
constexpr std::uint64_t draw_place(std::uint64_t random, std::uint64_t total) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(random) * total >> 64);
}

}  // namespace hybridattn::engine
