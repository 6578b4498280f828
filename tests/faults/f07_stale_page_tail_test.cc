// F07: behind the last page of a row stands PAD, not a former owner's page, and a length that would
// need it is an error.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;

TEST(F07StalePageTail, ATableRowIsUsedAgainByAShorterRequest) {
  HandleAllocator pages("page", 16), slots("state slot", 2);
  RequestTable table(pages, &slots, 4, 2, 8);
  const Handle first = *table.open();
  ASSERT_OK(table.reserve(first, 30));
  ASSERT_OK(table.close(first));
  const Handle second = *table.open();
  ASSERT_EQ(second.index, first.index);
  ASSERT_OK(table.reserve(second, 5));
  EXPECT_EQ(table.page_ids(second), (std::vector<std::int32_t>{0, 1, -1, -1, -1, -1, -1, -1}));
  ASSERT_OK(table.advance(second, 8));
  EXPECT_ERROR(table.batch_row(second, kDecode, 1).status(), kFailedPrecondition, "room for 8");
}

TEST(F07StalePageTail, AReplayForShorterRowsReadsNoPageOfTheLongOnes) {
  HybridService service;
  service.record({{1, 2, 0, 32, 40}});
  service.admit(1, 0, {0, 1, 2, 3, 4, 5, 6, 7});
  service.admit(2, 1, {8, 9, 10, 11, 12, 13});
  service.step({{1, kPrefill, 30}});
  service.step({{2, kPrefill, 22}, {1, kDecode, 1}});
  // Their pages go to nobody and become poison; the graph's page list was longer a step ago.
  service.finish(1);
  service.finish(2);
  for (std::int32_t page = 0; page < 14; ++page) service.world.poison_page(page);
  service.admit(3, 0, {20});
  service.admit(4, 1, {21});
  service.step({{3, kPrefill, 3}, {4, kDecode, 1}});
  service.step({{3, kDecode, 1}, {4, kDecode, 1}});
  EXPECT_EQ(service.replays, 4);
}

TEST(F07StalePageTail, OneTokenPastTheEndIsRefusedInAGraphToo) {
  HybridService service;
  service.record({{1, 2, 0, 32, 40}});
  service.admit(1, 0, {0, 1});
  service.step({{1, kPrefill, 8}});
  const auto batch = service.batch_of({{1, kDecode, 1}});
  ASSERT_TRUE(batch.ok());
  EXPECT_ERROR(service.runner->run(*batch).status(), kOutOfRange, "row 0 has 2 pages",
               "must have 3");
  EXPECT_ERROR(service.world.backend->plan(*batch).status(), kOutOfRange, "must have 3");
}

}  // namespace
}  // namespace hybridattn::testing
