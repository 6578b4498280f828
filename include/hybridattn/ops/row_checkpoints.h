// States that an op stores on its way through the rows of a batch, beside those at their ends.
#pragma once

#include <cstdint>

namespace hybridattn {

/// Checkpoint i is the state of row row[i] after the first tokens[i] of its new tokens, which is
/// that of computed[row[i]] + tokens[i] tokens in all; it goes to slot slot[i] of the pool that has
/// the rows' states. All arrays are the caller's, int32, of `count` elements, and live until the op
/// returns. CUDA: each op uploads them for itself, so they cannot be captured in a graph.
struct RowCheckpoints {
  std::int32_t count = 0;
  /// Never falling. A row of kPadIndex has no state: its checkpoints must be kPadIndex too.
  const std::int32_t* row = nullptr;
  /// 1 to the length of the row, rising from one checkpoint of a row to the next.
  const std::int32_t* tokens = nullptr;
  /// All different, none of them that of a row; a checkpoint of kPadIndex is skipped.
  const std::int32_t* slot = nullptr;
};

}  // namespace hybridattn
