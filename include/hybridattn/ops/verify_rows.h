// Rows of drafted tokens, whose states are kept apart until some are accepted.
#pragma once

#include <cstdint>

namespace hybridattn {

/// In place of the first token's parent: the row's tokens follow one another.
inline constexpr std::int32_t kChain = -2;
/// The most tokens of a row that is a tree.
inline constexpr std::int32_t kMaxTreeTokens = 64;

/// What verify ops take besides RaggedRows. Arrays are the caller's and live until the op returns.
struct VerifyRows {
  /// [count of rows]: the state after token i of row r goes to slot kept[r] + i of the pool of kept
  /// states. No two rows may share kept slots: an op does not check that.
  const std::int32_t* kept = nullptr;
  /// Optional [T], by token of the stream: the token of the same row that it follows, counted from
  /// the row's first, always an earlier one; -1 = it follows the row's state. A row whose first
  /// entry is kChain is a chain, as all are without the array.
  const std::int32_t* parents = nullptr;
  /// CUDA: the same arrays on the device. nullptr = each op uploads them for itself.
  const std::int32_t* device_kept = nullptr;
  const std::int32_t* device_parents = nullptr;
};

/// The parent of token i of a row that begins at token `first` of the stream.
constexpr std::int64_t parent_of(const std::int32_t* parents, std::int64_t first, std::int64_t i) {
  return parents != nullptr && parents[first] != kChain ? parents[first + i] : i - 1;
}

}  // namespace hybridattn
