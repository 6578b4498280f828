// Ledger: every id of an allocator is free or held, never both, never neither.
#pragma once

#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "hybridattn/handle_allocator.h"

namespace hybridattn::testing {

/// `held` names every handle that the caller knows to be live, each once.
inline ::testing::AssertionResult ledger_balances(const HandleAllocator& allocator,
                                                  const std::vector<Handle>& held) {
  const Status checked = allocator.check();
  if (!checked.ok()) return ::testing::AssertionFailure() << checked.message();
  std::set<std::int32_t> ids;
  for (const Handle& handle : held) {
    if (!allocator.live(handle)) {
      return ::testing::AssertionFailure() << "id " << handle.index << " is held and not live";
    }
    if (!ids.insert(handle.index).second) {
      return ::testing::AssertionFailure() << "id " << handle.index << " is held twice";
    }
  }
  const auto sum = static_cast<std::int32_t>(ids.size()) + allocator.num_free();
  if (sum == allocator.capacity()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << ids.size() << " held and " << allocator.num_free()
                                       << " free of " << allocator.capacity();
}

}  // namespace hybridattn::testing
