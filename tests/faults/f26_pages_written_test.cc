// F26, F28: what is freed is what was taken, page by page, and a page is free when its last owner
// goes.
#include "hybridattn/request_table.h"
#include "tests/support/contexts.h"
#include "tests/support/ledger.h"

namespace hybridattn::testing {
namespace {

TEST(F26IndexNeverWritten, PrefillThreeDecodesFinishThenAShorterRequest) {
  HandleAllocator pages("page", 6), slots("state slot", 2);
  RequestTable table(pages, &slots, 4, 2, 6);
  const Handle row = *table.open();
  ASSERT_OK(table.reserve(row, 5));
  ASSERT_OK(table.advance(row, 5));
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(table.reserve(row, table.computed(row) + 1));
    ASSERT_OK(table.advance(row, 1));
  }
  // A fourth token was sampled and never fed: it has no key, and its page was never taken.
  EXPECT_EQ(table.computed(row), 8);
  EXPECT_EQ(table.pages_of(row).size(), 2u);
  ASSERT_OK(table.close(row));
  EXPECT_TRUE(ledger_balances(pages, {}));
  EXPECT_TRUE(ledger_balances(slots, {}));
  const Handle next = *table.open();
  ASSERT_OK(table.reserve(next, 1));
  EXPECT_EQ(pages.num_free(), 5);
  ASSERT_OK(table.close(next));
  EXPECT_TRUE(ledger_balances(pages, {}));
}

TEST(F28PageGranularity, EveryIdIsInsideAndASharedPageGoesWithItsLastOwner) {
  HandleAllocator pages("page", 10);
  const std::vector<Handle> all = *pages.allocate(10);
  for (const Handle& page : all) {
    EXPECT_GE(page.index, 0);
    EXPECT_LT(page.index, 10);
  }
  EXPECT_FALSE(pages.allocate(1).ok());
  // The boundary page of two requests.
  ASSERT_OK(pages.retain(all[9]));
  EXPECT_EQ(pages.references(all[9]), 2);
  ASSERT_OK(pages.release(all[9]));
  EXPECT_EQ(pages.num_free(), 0);
  EXPECT_TRUE(pages.live(all[9]));
  ASSERT_OK(pages.release(all[9]));
  EXPECT_EQ(pages.num_free(), 1);
  EXPECT_ERROR(pages.release(all[9]), kFailedPrecondition, "page 9");
  // A list with a page too often changes nothing.
  EXPECT_FALSE(pages.release({all[0], all[1], all[0]}).ok());
  EXPECT_EQ(pages.num_free(), 1);
  EXPECT_TRUE(ledger_balances(pages, {all.begin(), all.begin() + 9}));
}

}  // namespace
}  // namespace hybridattn::testing
