// One step of the engine: the rows that were chosen, and what of them must be sampled.
#pragma once

#include <vector>

#include "engine/serve/engine.h"

namespace hybridattn::engine {

struct Engine::StepRow {
  std::size_t member = 0;  // index in running_
  RowKind kind = RowKind::kPad;
  std::int32_t tokens = 0;
  std::int32_t first_token = 0;  // in the stream
  bool sampled = false;          // the token behind is not known yet
  std::int32_t matched = 0;      // drafts that the sampler took too
  bool stopped = false;          // what follows in the row was not taken
  Handle row{};                  // of the table, when the step was composed
};

struct Engine::Step {
  ForwardBatch batch;
  std::vector<StepRow> rows;
  std::vector<std::int32_t> ids;
  std::int64_t prefill_tokens = 0;
};

}  // namespace hybridattn::engine
