// RequestTable: one owner of slots and pages, in any random order of calls.
#include <limits>

#include "hybridattn/request_table.h"

#include <map>

#include <gtest/gtest.h>

#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

struct Fixture {
  HandleAllocator pages{"page", 20};
  HandleAllocator slots{"state slot", 4};
  RequestTable table{pages, &slots, 4, 6, 8};
};

TEST(RequestTable, OfImpossibleSizesOpensNoRow) {
  HandleAllocator pages("page", 4);
  for (const std::int32_t size : {0, -3}) {
    RequestTable table(pages, nullptr, size, 2, 2);
    EXPECT_ERROR(table.open().status(), kInvalidArgument, "page_size is ");
    RequestTable no_rows(pages, nullptr, 4, size, 2);
    EXPECT_ERROR(no_rows.open().status(), kResourceExhausted, "all 0 rows");
    EXPECT_OK(no_rows.check());
  }
  EXPECT_EQ(pages.num_free(), 4);
}

TEST(RequestTable, ALifeOfOneRow) {
  Fixture f;
  const auto row = f.table.open();
  ASSERT_TRUE(row.ok());
  EXPECT_TRUE(f.table.is_open(*row));
  EXPECT_EQ(f.slots.num_free(), 3);
  EXPECT_EQ(f.pages.num_free(), 20);
  ASSERT_OK(f.table.reserve(*row, 9));
  EXPECT_EQ(f.pages.num_free(), 17);
  ASSERT_OK(f.table.reserve(*row, 12));
  EXPECT_EQ(f.pages.num_free(), 17) << "12 tokens are 3 pages of 4";
  const auto batch = *f.table.batch_row(*row, RowKind::kPrefill, 12);
  EXPECT_EQ(batch.computed, 0);
  EXPECT_EQ(batch.new_tokens, 12);
  EXPECT_EQ(batch.pages, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(batch.slot, 0);
  ASSERT_OK(f.table.advance(*row, 12));
  EXPECT_EQ(f.table.computed(*row), 12);
  EXPECT_ERROR(f.table.batch_row(*row, RowKind::kPrefill, -1).status(), kInvalidArgument,
               "new_tokens is -1");
  EXPECT_ERROR(f.table.batch_row(*row, RowKind::kDecode, 1).status(), kFailedPrecondition,
               "room for 12", "reserve");
  EXPECT_ERROR(f.table.advance(*row, 1), kOutOfRange, "13", "12");
  EXPECT_ERROR(f.table.advance(*row, -1), kOutOfRange, "11");
  const auto ids = f.table.page_ids(*row);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 1, 2, -1, -1, -1, -1, -1}));
  ASSERT_OK(f.table.close(*row));
  EXPECT_EQ(f.pages.num_free(), 20);
  EXPECT_EQ(f.slots.num_free(), 4);
  EXPECT_ERROR(f.table.close(*row), kFailedPrecondition, "row 0", "generation");
}

TEST(RequestTable, TheTailIsNeverAFormerOwners) {
  Fixture f;
  const auto first = *f.table.open();
  ASSERT_OK(f.table.reserve(first, 32));
  ASSERT_OK(f.table.close(first));
  const auto second = *f.table.open();
  ASSERT_OK(f.table.reserve(second, 1));
  EXPECT_EQ(f.table.page_ids(second), (std::vector<std::int32_t>{0, -1, -1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(f.table.computed(second), 0);
}

TEST(RequestTable, ErrorsChangeNothing) {
  Fixture f;
  std::vector<Handle> rows;
  for (int i = 0; i < 4; ++i) rows.push_back(*f.table.open());
  EXPECT_ERROR(f.table.open().status(), kResourceExhausted, "state slot");
  EXPECT_EQ(f.table.num_open(), 4);
  EXPECT_ERROR(f.table.reserve(rows[0], 33), kResourceExhausted, "9 pages", "at most 8");
  EXPECT_ERROR(f.table.reserve(rows[0], std::numeric_limits<std::int64_t>::max()),
               kResourceExhausted, "at most 8");
  EXPECT_ERROR(f.table.reserve(rows[0], -5), kInvalidArgument, "tokens is -5");
  EXPECT_EQ(f.pages.num_free(), 20);
  for (const int row : {0, 1}) ASSERT_OK(f.table.reserve(rows[static_cast<std::size_t>(row)], 32));
  EXPECT_ERROR(f.table.reserve(rows[2], 20), kResourceExhausted, "5 pages", "4 of 20");
  EXPECT_EQ(f.pages.num_free(), 4);
  EXPECT_OK(f.table.check());
  for (const std::int32_t index : {-1, 5, 6, 1000}) {
    const Handle row{index, 1, rows[0].owner};
    EXPECT_ERROR(f.table.find(index).status(), kFailedPrecondition, "not open");
    EXPECT_FALSE(f.table.is_open(row));
    EXPECT_ERROR(f.table.reserve(row, 1), kFailedPrecondition, "not open");
    EXPECT_ERROR(f.table.advance(row, 1), kFailedPrecondition, "not open");
    EXPECT_ERROR(f.table.batch_row(row, RowKind::kDecode, 1).status(), kFailedPrecondition,
                 "not open");
  }
}

TEST(RequestTable, WithoutStateSlots) {
  HandleAllocator pages("page", 4);
  RequestTable table(pages, nullptr, 4, 2, 2);
  const auto row = *table.open();
  ASSERT_OK(table.reserve(row, 5));
  EXPECT_EQ(table.batch_row(row, RowKind::kPrefill, 5)->slot, kPadIndex);
  ASSERT_TRUE(table.open().ok());
  EXPECT_ERROR(table.open().status(), kResourceExhausted, "all 2 rows");
  EXPECT_OK(table.check());
}

TEST(RequestTable, RandomSchedulesBalance) {
  Fixture f;
  Random random(5);
  std::map<std::int32_t, std::pair<std::int64_t, std::int64_t>> model;  // row -> computed, pages
  std::vector<Handle> last(6);  // of each index, stale after its close
  for (int step = 0; step < 5000; ++step) {
    const auto index = static_cast<std::int32_t>(random.integer(0, 5));
    const Handle row = last[static_cast<std::size_t>(index)];
    const std::int64_t amount = random.integer(0, 34);
    const auto entry = model.find(index);
    ASSERT_EQ(f.table.find(index).ok(), entry != model.end());
    std::int64_t used = 0;
    for (const auto& [r, state] : model) used += state.second;
    switch (random.integer(0, 3)) {
      case 0: {
        const auto opened = f.table.open();
        ASSERT_EQ(opened.ok(), model.size() < 4);
        if (!opened.ok()) break;
        ASSERT_TRUE(model.emplace(opened->index, std::make_pair(0, 0)).second);
        last[static_cast<std::size_t>(opened->index)] = *opened;
        break;
      }
      case 1: {
        const bool fits = entry != model.end() && (amount + 3) / 4 <= 8 &&
                          used - entry->second.second + (amount + 3) / 4 <= 20;
        const bool held = entry != model.end() && (amount + 3) / 4 <= entry->second.second;
        ASSERT_EQ(f.table.reserve(row, amount).ok(), fits || held);
        if (fits && !held) entry->second.second = (amount + 3) / 4;
        break;
      }
      case 2: {
        const bool fits =
            entry != model.end() && entry->second.first + amount <= entry->second.second * 4;
        ASSERT_EQ(f.table.advance(row, static_cast<std::int32_t>(amount)).ok(), fits);
        if (fits) entry->second.first += amount;
        break;
      }
      default:
        ASSERT_EQ(f.table.close(row).ok(), entry != model.end());
        if (entry != model.end()) model.erase(entry);
    }
    ASSERT_OK(f.table.check());
    ASSERT_OK(f.pages.check());
    ASSERT_OK(f.slots.check());
    used = 0;
    for (const auto& [r, state] : model) used += state.second;
    ASSERT_EQ(f.pages.num_free(), 20 - used);
    ASSERT_EQ(f.slots.num_free(), 4 - static_cast<int>(model.size()));
    ASSERT_EQ(f.table.num_open(), static_cast<int>(model.size()));
  }
}

}  // namespace
}  // namespace hybridattn::testing
