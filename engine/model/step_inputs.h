// The ids and positions of a step's tokens.
#pragma once

#include <cstdint>
#include <span>

#include "engine/model/step_array.h"
#include "hybridattn/forward_batch.h"

namespace hybridattn::engine {

class StepInputs {
 public:
  explicit StepInputs(Context& context) : ids_(context), positions_(context) {}

  /// Room for steps of `tokens`. Errors: resource_exhausted, device_error.
  Status reserve(std::int64_t tokens);
  std::int64_t capacity() const { return static_cast<std::int64_t>(ids_.size()); }

  /// `ids` are the tokens of all rows in order, pad rows' included. What lies behind them is id 0
  /// at position 0. Errors: invalid_argument (number of ids), out_of_range (an id that is neither
  /// below `vocab` nor a chosen_id below `chosen`); resource_exhausted for more tokens than there
  /// is room for.
  Status set(const ForwardBatch& batch, std::span<const std::int32_t> ids, std::int32_t vocab,
             std::size_t chosen);

  /// Of the first `tokens`, for checks on the host.
  std::span<const std::int32_t> ids(std::int64_t tokens) const {
    return ids_.host().first(static_cast<std::size_t>(tokens));
  }
  const std::int64_t* positions() const { return positions_.host().data(); }
  /// The same where kernels read them.
  const std::int32_t* device_ids() { return ids_.device(); }
  const std::int64_t* device_positions() { return positions_.device(); }

 private:
  StepArray<std::int32_t> ids_;
  StepArray<std::int64_t> positions_;
  std::size_t written_ = 0;  // of the step before
};

}  // namespace hybridattn::engine
