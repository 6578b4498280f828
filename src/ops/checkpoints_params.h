// What a kernel that stores checkpoints takes.
#pragma once

#include "hybridattn/ops/row_checkpoints.h"

namespace hybridattn::ops {

/// On the CPU `host` alone is set, on CUDA the rest where there are any.
struct PlacedCheckpoints {
  RowCheckpoints host;
  const std::int32_t* first = nullptr;   // [rows + 1] row r has those in [first[r], first[r + 1])
  const std::int32_t* tokens = nullptr;  // [count]
  const std::int32_t* slot = nullptr;    // [count]
  // Rows of their own over the tokens behind the last whole chunk before them:
  const std::int32_t* start = nullptr;     // [count]
  const std::int32_t* length = nullptr;    // [count] under kGdnChunk, 0 among them
  const std::int32_t* computed = nullptr;  // [count] not 0: they begin with a state
};

/// Index of the first checkpoint of a row, or of what follows it.
inline std::int32_t first_checkpoint(const RowCheckpoints& checkpoints, std::int32_t row) {
  std::int32_t i = 0;
  while (i < checkpoints.count && checkpoints.row[i] < row) ++i;
  return i;
}

}  // namespace hybridattn::ops
