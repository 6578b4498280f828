// Greedy choice of tokens where the logits lie.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// What the logits of one position say.
struct NextToken {
  std::int32_t id = 0;      ///< of the largest logit below the limit, the lower one of equals
  std::int32_t finite = 0;  ///< whether all logits of the row, those beyond the limit too, are
};

/// Parts of a row that blocks of a GPU look through, at most: room that `greedy_tokens` needs.
inline constexpr std::int64_t kGreedyParts = 64;
constexpr std::size_t greedy_scratch_bytes(std::int64_t rows) {
  return static_cast<std::size_t>(rows * kGreedyParts) * sizeof(std::uint64_t);
}

/// tokens[i] from row i of logits [M, V] f32, of which the first limits[i] may be chosen; a NaN
/// never is. CUDA: all arrays lie on the device, `scratch` has greedy_scratch_bytes(M); the CPU
/// takes none.
/// Errors: device_error.
Status greedy_tokens(Context& context, const ConstTensorView& logits, const std::int32_t* limits,
                     std::byte* scratch, NextToken* tokens);

}  // namespace hybridattn::engine
