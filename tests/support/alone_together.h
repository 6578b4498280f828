// Alone = together: a row's result does not depend on who shares the call, nor on their order.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/shared_memory.h"

namespace hybridattn::testing {

/// Runs the named rows in the given order in one call, each from its own initial state, and returns
/// the bytes of each row's results in the same order.
using RowRunner = std::function<std::vector<std::vector<Byte>>(const std::vector<int>& order)>;

inline ::testing::AssertionResult alone_equals_together(
    const RowRunner& run, int rows, const std::vector<std::vector<int>>& orders) {
  std::vector<std::vector<Byte>> alone;
  for (int r = 0; r < rows; ++r) alone.push_back(run({r})[0]);
  for (const std::vector<int>& order : orders) {
    const auto together = run(order);
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (together[i] == alone[static_cast<std::size_t>(order[i])]) continue;
      return ::testing::AssertionFailure() << "row " << order[i] << " at place " << i << " of "
                                           << order.size() << " differs from its run alone";
    }
  }
  return ::testing::AssertionSuccess();
}

/// All orders of all rows 0 to rows - 1.
inline std::vector<std::vector<int>> permutations(int rows) {
  std::vector<std::vector<int>> out{{}};
  for (int r = 0; r < rows; ++r) {
    std::vector<std::vector<int>> longer;
    for (const std::vector<int>& order : out) {
      for (std::size_t at = 0; at <= order.size(); ++at) {
        longer.push_back(order);
        longer.back().insert(longer.back().begin() + static_cast<std::ptrdiff_t>(at), r);
      }
    }
    out = std::move(longer);
  }
  return out;
}

}  // namespace hybridattn::testing
