// Rows of drafted tokens, and what is kept of them.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {

/// A chain, a tree, padding, a fresh row (of slot 6), an empty one; kept slots not in the order of
/// the rows.
class ConformanceDrafts : public Conformance {
 protected:
  static constexpr std::int64_t kTokens = 18, kSlots = 8, kKept = 18;

  void SetUp() override {
    Conformance::SetUp();
    rows.add(1, 5, 2, 9);
    rows.add(6, 6, 0, 3);
    rows.add(12, 2, kPadIndex, 0);
    rows.add(14, 3, 6, 0);
    rows.add(17, 0, 1, 4);
    kept = {12, 0, 0, 7, 0};
    parents.assign(kTokens, kChain);
    const std::vector<std::int32_t> tree{-1, 0, 0, 1, -1, 4};
    std::copy(tree.begin(), tree.end(), parents.begin() + 6);
  }
  VerifyRows verify() const { return {kept.data(), parents.data()}; }
  /// Kept slots that some row names, and some of those that none does.
  static std::vector<std::int64_t> named() {
    return {12, 13, 14, 15, 16, 0, 1, 2, 3, 4, 5, 7, 8, 9};
  }
  static std::vector<std::int64_t> unnamed() { return {6, 10, 11, 17}; }

  Rows rows;
  std::vector<std::int32_t> kept, parents;
};

}  // namespace hybridattn::testing
