// F11: what comes late for a request that has ended changes nothing of its successor.
#include "tests/support/contexts.h"

#include "hybridattn/request_table.h"

namespace hybridattn::testing {
namespace {

TEST(F11FreedRow, ALateCommitMeetsTheGenerationOfTheRow) {
  HandleAllocator pages("page", 8), slots("state slot", 1);
  RequestTable table(pages, &slots, 4, 1, 4);
  const Handle first = *table.open();
  ASSERT_OK(table.reserve(first, 8));
  ASSERT_OK(table.batch_row(first, RowKind::kPrefill, 3).status());
  // The step is on its way; the request ends, and another one gets its row, slot and pages.
  ASSERT_OK(table.close(first));
  const Handle second = *table.open();
  ASSERT_OK(table.reserve(second, 8));
  ASSERT_EQ(second.index, first.index);
  ASSERT_EQ(table.slot_id(second), 0);
  EXPECT_ERROR(table.advance(first, 3), kFailedPrecondition, "row 0", "not open");
  EXPECT_ERROR(table.reserve(first, 16), kFailedPrecondition, "row 0");
  EXPECT_ERROR(table.close(first), kFailedPrecondition, "row 0");
  EXPECT_ERROR(table.batch_row(first, RowKind::kDecode, 1).status(), kFailedPrecondition, "row 0");
  EXPECT_FALSE(table.is_open(first));
  EXPECT_EQ(table.computed(second), 0);
  EXPECT_EQ(table.pages_of(second).size(), 2u);
  ASSERT_OK(table.check());
}

}  // namespace
}  // namespace hybridattn::testing
