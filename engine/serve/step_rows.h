// One step of the engine: the rows that were chosen, and what of them must be sampled.
#pragma once

#include <vector>

#include "engine/serve/engine.h"

namespace hybridattn::engine {

/// All that is known of a row when the step is composed: the request may change, or be gone, while
/// the step runs.
struct Engine::StepRow {
  std::uint64_t request = 0;
  RowKind kind = RowKind::kPad;
  std::int32_t tokens = 0;
  std::int32_t first_token = 0;  // in the stream
  bool sampled = false;          // the token behind is not known yet
  std::int32_t matched = 0;      // drafts that the sampler took too
  bool stopped = false;          // what follows in the row was not taken
  Handle row{};                  // of the table
  std::int32_t vocab_limit = 0;
  SamplingParams sampling{};
  std::int64_t said = 0;           // tokens of the output before the next one
  std::int32_t place = kPadIndex;  // of its next token among the chosen ones
};

struct Engine::Step {
  ForwardBatch batch;
  std::vector<StepRow> rows;
  std::vector<std::int32_t> ids;
  std::int64_t prefill_tokens = 0;
  Choices choices{};  // of a step in flight
};

}  // namespace hybridattn::engine
