// Transaction: all or nothing over several allocators, whatever fails and whoever interferes.
#include "hybridattn/transaction.h"

#include <thread>

#include <gtest/gtest.h>

#include "tests/support/contexts.h"
#include "tests/support/ledger.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

struct Allocators {
  HandleAllocator pages{"page", 6};
  HandleAllocator slots{"state slot", 2};
};

TEST(Transaction, KeepsAtTheCommitAndNothingWithout) {
  Allocators a;
  {
    Transaction lost;
    ASSERT_TRUE(lost.allocate(a.pages, 3).ok());
    ASSERT_TRUE(lost.allocate(a.slots, 1).ok());
    EXPECT_EQ(a.pages.num_free(), 3);
  }
  EXPECT_TRUE(ledger_balances(a.pages, {}));
  EXPECT_TRUE(ledger_balances(a.slots, {}));
  Transaction kept;
  const auto pages = *kept.allocate(a.pages, 3);
  const auto slots = *kept.allocate(a.slots, 1);
  ASSERT_OK(kept.commit());
  kept.rollback();  // nothing is left to roll back
  EXPECT_TRUE(ledger_balances(a.pages, pages));
  EXPECT_TRUE(ledger_balances(a.slots, slots));
}

TEST(Transaction, WhatIsReleasedIsLiveUntilTheCommit) {
  Allocators a;
  const auto pages = *a.pages.allocate(4);
  {
    Transaction lost;
    ASSERT_OK(lost.release(a.pages, pages));
    EXPECT_EQ(a.pages.num_free(), 2);
  }
  EXPECT_TRUE(ledger_balances(a.pages, pages)) << "a release that was not committed";
  Transaction done;
  ASSERT_OK(done.release(a.pages, pages));
  const auto fresh = *done.allocate(a.pages, 2);
  EXPECT_ERROR(done.allocate(a.pages, 1).status(), kResourceExhausted, "0 of 6");
  ASSERT_OK(done.commit());
  EXPECT_TRUE(ledger_balances(a.pages, fresh));
}

TEST(Transaction, ACallThatFailsTakesNothing) {
  Allocators a;
  const auto held = *a.pages.allocate(2);
  Transaction t;
  const auto slot = *t.allocate(a.slots, 1);
  EXPECT_ERROR(t.allocate(a.pages, 5).status(), kResourceExhausted, "5 pages", "4 of 6");
  EXPECT_ERROR(t.allocate(a.pages, -1).status(), kInvalidArgument, "-1");
  const Handle stale{held[0].index, held[0].generation + 1, held[0].owner};
  EXPECT_ERROR(t.release(a.pages, std::vector{held[1], stale}), kFailedPrecondition, "page 0");
  EXPECT_ERROR(t.release(a.slots, held), kFailedPrecondition, "belongs to allocator");
  ASSERT_OK(t.release(a.pages, std::span(&held[1], 1)));
  EXPECT_ERROR(t.release(a.pages, std::span(&held[1], 1)), kFailedPrecondition, "2 times");
  ASSERT_OK(t.commit());
  EXPECT_TRUE(ledger_balances(a.pages, {held[0]}));
  EXPECT_TRUE(ledger_balances(a.slots, slot));
}

TEST(Transaction, RollsBackWhatTheCallerDidNotGiveAway) {
  Allocators a;
  {
    Transaction t;
    const auto pages = *t.allocate(a.pages, 3);
    ASSERT_OK(a.pages.release(pages[1]));
  }
  EXPECT_TRUE(ledger_balances(a.pages, {}));
}

TEST(Transaction, AHandleThatSomebodyElseReleasedUndoesAll) {
  Allocators a;
  const auto pages = *a.pages.allocate(3);
  const auto slots = *a.slots.allocate(1);
  Transaction t;
  ASSERT_OK(t.release(a.slots, slots));
  ASSERT_OK(t.release(a.pages, pages));
  ASSERT_TRUE(t.allocate(a.slots, 1).ok());
  ASSERT_OK(a.pages.release(pages[1]));
  EXPECT_ERROR(t.commit(), kFailedPrecondition, "page 1", "not live");
  EXPECT_TRUE(ledger_balances(a.slots, slots)) << "the slot must not be released alone";
  EXPECT_TRUE(ledger_balances(a.pages, {pages[0], pages[2]}));
}

TEST(Transaction, ThreadsThatTakeTheSameAllocatorsInEitherOrderDoNotWaitForEver) {
  HandleAllocator first("page", 64), second("state slot", 64);
  const auto work = [](HandleAllocator& one, HandleAllocator& other, std::uint64_t seed) {
    Random random(seed);
    std::vector<Handle> mine_one, mine_other;
    for (int i = 0; i < 2000; ++i) {
      Transaction t;
      const bool grow = mine_one.size() < 8 && (mine_one.empty() || random.integer(0, 1) == 1);
      if (!grow) {
        EXPECT_OK(t.release(one, mine_one));
        EXPECT_OK(t.release(other, mine_other));
        if (random.integer(0, 3) == 0) continue;  // rolled back
        EXPECT_OK(t.commit());
        mine_one.clear();
        mine_other.clear();
        continue;
      }
      const auto a = *t.allocate(one, 2);
      const auto b = *t.allocate(other, 2);
      if (random.integer(0, 3) == 0) continue;
      EXPECT_OK(t.commit());
      mine_one.insert(mine_one.end(), a.begin(), a.end());
      mine_other.insert(mine_other.end(), b.begin(), b.end());
    }
    EXPECT_OK(one.release(mine_one));
    EXPECT_OK(other.release(mine_other));
  };
  std::thread beside([&] { work(second, first, 1); });
  work(first, second, 2);
  beside.join();
  EXPECT_TRUE(ledger_balances(first, {}));
  EXPECT_TRUE(ledger_balances(second, {}));
}

TEST(FreeGroup, WhatIsReleasedIsFreeOnlyAtTheEnd) {
  HandleAllocator pages("page", 4);
  const auto held = *pages.allocate(4);
  ASSERT_OK(pages.free_group_begin());
  ASSERT_OK(pages.release(held[0]));
  ASSERT_OK(pages.release({held[2], held[3]}));
  EXPECT_FALSE(pages.live(held[0]));
  EXPECT_ERROR(pages.release(held[0]), kFailedPrecondition, "page 0", "freed before");
  EXPECT_EQ(pages.num_free(), 0);
  EXPECT_ERROR(pages.allocate(1).status(), kResourceExhausted, "0 of 4");
  EXPECT_OK(pages.check());
  EXPECT_ERROR(pages.free_group_begin(), kFailedPrecondition, "open already");
  ASSERT_OK(pages.free_group_end());
  EXPECT_EQ(pages.num_free(), 3);
  EXPECT_TRUE(ledger_balances(pages, {held[1]}));
  EXPECT_ERROR(pages.free_group_end(), kFailedPrecondition, "no group");
  EXPECT_EQ((*pages.allocate(1))[0].index, 0);
}

TEST(HandleAllocatorClear, MakesEveryHandleStale) {
  HandleAllocator pages("page", 3);
  const auto held = *pages.allocate(2);
  ASSERT_OK(pages.retain(held[1]));
  ASSERT_OK(pages.free_group_begin());
  ASSERT_OK(pages.release(held[0]));
  pages.clear();
  EXPECT_EQ(pages.num_free(), 3);
  EXPECT_FALSE(pages.live(held[1]));
  EXPECT_ERROR(pages.release(held[1]), kFailedPrecondition, "page 1");
  EXPECT_OK(pages.check());
  EXPECT_EQ((*pages.allocate(3)).size(), 3u);
}

TEST(FailAllocation, FailsTheNthOnce) {
  HandleAllocator pages("page", 8);
  pages.fail_allocation(2);
  EXPECT_TRUE(pages.allocate(1).ok());
  EXPECT_ERROR(pages.allocate(1).status(), kResourceExhausted, "1 pages", "fail_allocation");
  EXPECT_TRUE(pages.allocate(1).ok());
  EXPECT_EQ(pages.num_free(), 6);
  pages.fail_allocation(1);
  pages.fail_allocation(0);
  EXPECT_TRUE(pages.allocate(1).ok());
}

TEST(IdsFromAnyFirst, AreTheOnesHandedOut) {
  HandleAllocator tracks("track slot", 3, 10);
  const auto held = *tracks.allocate(3);
  EXPECT_EQ(held[0].index, 10);
  EXPECT_EQ(held[2].index, 12);
  EXPECT_ERROR(tracks.release(Handle{2, 1, held[0].owner}), kFailedPrecondition, "track slot 2");
  EXPECT_ERROR(tracks.release(Handle{13, 1, held[0].owner}), kFailedPrecondition, "track slot 13");
  ASSERT_OK(tracks.release(held[1]));
  EXPECT_EQ((*tracks.allocate(1))[0].index, 11);
  EXPECT_OK(tracks.check());
}

TEST(ManyIds, AreHandedOutLowestFirstAcrossWords) {
  HandleAllocator pages("page", 1000);
  auto held = *pages.allocate(1000);
  Random random(3);
  std::set<std::int32_t> free;
  for (int i = 0; i < 3000; ++i) {
    if (free.empty() || (free.size() < 900 && random.integer(0, 1) == 0)) {
      const auto at =
          static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(held.size()) - 1));
      ASSERT_OK(pages.release(held[at]));
      free.insert(held[at].index);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
    } else {
      held.push_back((*pages.allocate(1))[0]);
      ASSERT_EQ(held.back().index, *free.begin());
      free.erase(free.begin());
    }
  }
  EXPECT_TRUE(ledger_balances(pages, held));
}

}  // namespace
}  // namespace hybridattn::testing
