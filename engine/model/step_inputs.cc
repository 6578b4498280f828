#include "engine/model/step_inputs.h"

#include <algorithm>

#include "engine/ops/embedding.h"

namespace hybridattn::engine {

Status StepInputs::reserve(std::int64_t tokens) {
  const auto count = static_cast<std::size_t>(tokens);
  if (count <= ids_.size()) return {};
  written_ = 0;
  HYBRIDATTN_TRY(positions_.reserve(count));
  return ids_.reserve(count);
}

Status StepInputs::set(const ForwardBatch& batch, std::span<const std::int32_t> ids,
                       std::int32_t vocab, std::size_t chosen) {
  if (static_cast<std::int64_t>(ids.size()) != batch.num_tokens()) {
    return invalid_argument("HybridModel::set_inputs: ", ids.size(), " ids are given, must be ",
                            batch.num_tokens(), " as the batch has tokens");
  }
  if (ids.size() > ids_.size()) {
    return error(StatusCode::kResourceExhausted, "HybridModel::set_inputs: ", ids.size(),
                 " tokens are given, reserved are ", ids_.size());
  }
  HYBRIDATTN_TRY(check_ids("HybridModel::set_inputs", ids, vocab, chosen));
  // What the step before left behind these is cleared, and all of that goes to the device.
  const std::size_t changed = std::max(written_, ids.size());
  const auto host_ids = ids_.host().first(changed);
  const auto host_positions = positions_.host().first(changed);
  std::fill(std::copy(ids.begin(), ids.end(), host_ids.begin()), host_ids.end(), 0);
  std::size_t token = 0;
  for (const BatchRow& row : batch.rows()) {
    for (std::int64_t i = 0; i < row.new_tokens; ++i) host_positions[token++] = row.computed + i;
  }
  std::fill(host_positions.begin() + static_cast<std::ptrdiff_t>(token), host_positions.end(), 0);
  written_ = ids.size();
  HYBRIDATTN_TRY(ids_.upload(changed));
  return positions_.upload(changed);
}

}  // namespace hybridattn::engine
