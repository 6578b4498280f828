// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>

#include "engine/ops/draw.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

struct SamplingParams {
  float temperature = 0.0f;         ///< 0 = greedy
  std::int32_t top_k = 0;           ///< 0 = off
  float top_p = 1.0f;               ///< (0, 1]; 1 = off
  float min_p = 0.0f;               ///< [0, 1]; 0 = off
  float repetition_penalty = 1.0f;  ///< > 0; 1 = off
  std::uint64_t seed = 0;

  /// Errors: invalid_argument, naming the field.
  Status validate() const;
  /// Whether the next token depends on the tokens before, beyond the logits.
  bool reads_history() const { return repetition_penalty != 1; }
};

/// What decides the token behind the first `said` ones of an output, but for the penalty.
Draw draw_of(const SamplingParams& params, std::int32_t limit, std::int64_t said);

/// The next id, below `limit`. `logits` are changed. In order: repetition penalty over `history`
/// (prompt and output), temperature, top-k, top-p, min-p, then the draw behind `said` others. Ties
/// go to the lower id. It depends on these alone, never on other requests.
std::int32_t sample(const SamplingParams& params, std::span<float> logits,
                    std::span<const std::int32_t> history, std::int32_t limit, std::int64_t said);

/// The largest logit's index, the lower one of equals; NaN never wins.
std::int32_t argmax(std::span<const float> logits);

/// Errors: internal, naming the position, unless all are finite. `tokens` = how many led to them.
Status check_logits(std::span<const float> logits, std::size_t tokens);

/// What check_logits says of logits that are not.
Status logits_error(std::size_t tokens);

/// log softmax(logits)[id], the sum in double.
double log_probability(std::span<const float> logits, std::int32_t id);

}  // namespace hybridattn::engine
