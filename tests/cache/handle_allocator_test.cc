// HandleAllocator against a dictionary that does the same in the obvious way.
#include "hybridattn/handle_allocator.h"

#include <algorithm>
#include <map>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/contexts.h"
#include "tests/support/ledger.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

TEST(HandleAllocator, LowestIdsFirstAndNoneReserved) {
  HandleAllocator allocator("page", 5);
  const auto handles = *allocator.allocate(5);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(handles[i].index, static_cast<int>(i));
  ASSERT_OK(allocator.release(handles[3]));
  ASSERT_OK(allocator.release(handles[1]));
  EXPECT_EQ((*allocator.allocate(1))[0].index, 1);
}

TEST(HandleAllocator, AllOrNothing) {
  HandleAllocator allocator("page", 3);
  const auto held = *allocator.allocate(2);
  EXPECT_ERROR(allocator.allocate(2).status(), kResourceExhausted, "2 pages", "1 of 3");
  EXPECT_EQ(allocator.num_free(), 1);
  EXPECT_ERROR(allocator.allocate(-1).status(), kInvalidArgument, "-1");
  EXPECT_TRUE(allocator.allocate(0)->empty());
  const Handle unknown{2, 1, held[0].owner};
  EXPECT_ERROR(allocator.release({held[0], unknown}), kFailedPrecondition, "page 2");
  EXPECT_TRUE(allocator.live(held[0])) << "the other one of the list must stay";
  EXPECT_ERROR(allocator.release({held[0], held[0]}), kFailedPrecondition, "2 times", "1 ref");
  EXPECT_TRUE(ledger_balances(allocator, held));
}

TEST(HandleAllocator, References) {
  HandleAllocator allocator("page", 1);
  const Handle page = (*allocator.allocate(1))[0];
  ASSERT_OK(allocator.retain(page));
  EXPECT_EQ(allocator.references(page), 2);
  ASSERT_OK(allocator.release(page));
  EXPECT_TRUE(allocator.live(page));
  ASSERT_OK(allocator.release(page));
  EXPECT_FALSE(allocator.live(page));
  EXPECT_EQ(allocator.references(page), 0);
  EXPECT_ERROR(allocator.retain(page), kFailedPrecondition, "not live");
}

TEST(HandleAllocator, AStaleHandleIsNotItsSuccessor) {
  HandleAllocator allocator("state slot", 1);
  const Handle old = (*allocator.allocate(1))[0];
  ASSERT_OK(allocator.release(old));
  const Handle now = (*allocator.allocate(1))[0];
  EXPECT_EQ(old.index, now.index);
  EXPECT_FALSE(allocator.live(old));
  EXPECT_ERROR(allocator.release(old), kFailedPrecondition, "state slot 0", "generation 1");
  EXPECT_TRUE(allocator.live(now));
}

TEST(HandleAllocator, AnotherAllocatorsHandleIsRefused) {
  HandleAllocator one("page", 2);
  HandleAllocator two("page", 2);
  const Handle mine = (*one.allocate(1))[0];
  const auto theirs = *two.allocate(1);
  EXPECT_FALSE(two.live(mine));
  EXPECT_ERROR(two.release(mine), kFailedPrecondition, "belongs to allocator");
  EXPECT_ERROR(two.release(Handle{}), kFailedPrecondition, "-1");
  Handle far = mine;
  far.index = 7;
  EXPECT_ERROR(one.release(far), kFailedPrecondition, "7");
}

TEST(HandleAllocator, NoCapacity) {
  HandleAllocator allocator("page", 0);
  EXPECT_EQ(allocator.capacity(), 0);
  EXPECT_ERROR(allocator.allocate(1).status(), kResourceExhausted, "0 of 0");
  EXPECT_OK(allocator.check());
}

TEST(HandleAllocator, RandomAgainstADictionary) {
  constexpr int kCapacity = 23;
  HandleAllocator allocator("page", kCapacity);
  std::map<int, std::pair<Handle, int>> model;  // index -> handle, references
  std::vector<Handle> dead;
  Random random(11);
  for (int step = 0; step < 10000; ++step) {
    const auto pick = [&] {
      return std::next(model.begin(),
                       random.integer(0, static_cast<std::int64_t>(model.size()) - 1));
    };
    const std::int64_t kind = random.integer(0, 9);
    if (kind < 4) {
      const auto count = static_cast<int>(random.integer(0, 4));
      const auto got = allocator.allocate(count);
      ASSERT_EQ(got.ok(), static_cast<int>(model.size()) + count <= kCapacity);
      if (!got.ok()) continue;
      for (const Handle& handle : *got) {
        ASSERT_TRUE(model.emplace(handle.index, std::make_pair(handle, 1)).second);
      }
    } else if (kind < 6 && !model.empty()) {
      const auto entry = pick();
      ASSERT_OK(allocator.retain(entry->second.first));
      ++entry->second.second;
    } else if (kind < 9 && !model.empty()) {
      const auto entry = pick();
      ASSERT_OK(allocator.release(entry->second.first));
      if (--entry->second.second == 0) {
        dead.push_back(entry->second.first);
        model.erase(entry);
      }
    } else if (!dead.empty()) {
      const auto at = random.integer(0, static_cast<std::int64_t>(dead.size()) - 1);
      const Handle& stale = dead[static_cast<std::size_t>(at)];
      ASSERT_FALSE(allocator.release(stale).ok());
      ASSERT_FALSE(allocator.retain(stale).ok());
    }
    std::vector<Handle> held;
    for (const auto& [index, entry] : model) {
      held.push_back(entry.first);
      ASSERT_EQ(allocator.references(entry.first), entry.second);
    }
    ASSERT_TRUE(ledger_balances(allocator, held));
  }
}

TEST(HandleAllocator, ServesThreadsAtOnce) {
  HandleAllocator allocator("page", 64);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const auto held = allocator.allocate(8);
        ASSERT_TRUE(held.ok());
        ASSERT_TRUE(allocator.release(*held).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(ledger_balances(allocator, {}));
}

}  // namespace
}  // namespace hybridattn::testing
