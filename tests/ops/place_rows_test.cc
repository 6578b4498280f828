// How rows are cut into segments: the table that kernels read.
#include "src/ops/place_rows.h"

#include <algorithm>
#include <numeric>

#include "hybridattn/ops/gdn_prefill.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {
namespace {

/// DeviceRowTables::segment_chunks of rows of so many tokens.
std::vector<std::int32_t> segment_chunks(const std::vector<std::int32_t>& tokens) {
  Rows rows;
  std::int32_t next = 0, slot = 0;
  for (const std::int32_t count : tokens) {
    rows.add(next, count, slot++, 0);
    next += count;
  }
  const ops::RowBlock block{static_cast<std::int32_t>(tokens.size()) + 2,
                            static_cast<std::int32_t>(ops::count_chunks(rows.view())) + 3};
  std::vector<std::byte> bytes(block.bytes());
  block.write(rows.view(), bytes.data());
  const std::int32_t* table = block.tables(bytes.data()).segment_chunks;
  return {table, table + kGdnMaxSegments + 1};
}

std::int32_t chunks_of(std::int32_t tokens) { return (tokens + kGdnChunk - 1) / kGdnChunk; }

std::int32_t segments(const std::vector<std::int32_t>& tokens, std::int32_t each) {
  std::int32_t count = 0;
  for (const std::int32_t row : tokens) count += (chunks_of(row) + each - 1) / each;
  return count;
}

TEST(SegmentTable, HasTheLeastLengthForEachNumber) {
  const std::vector<std::vector<std::int32_t>> batches = {
      {65536}, {1}, {64, 65}, {1024, 7168}, {5000, 0, 3, 700}, std::vector<std::int32_t>(12, 640)};
  for (const auto& batch : batches) {
    const auto table = segment_chunks(batch);
    const std::int32_t longest = chunks_of(*std::max_element(batch.begin(), batch.end()));
    EXPECT_EQ(table[0], longest);
    const auto live = std::count_if(batch.begin(), batch.end(), [](auto row) { return row > 0; });
    for (std::int32_t n = 1; n <= kGdnMaxSegments; ++n) {
      const std::int32_t each = table[static_cast<std::size_t>(n)];
      if (live > n) {
        EXPECT_EQ(each, 0);
        continue;
      }
      EXPECT_LE(segments(batch, each), n);
      EXPECT_LE(each, longest);
      if (each > 1) {
        EXPECT_GT(segments(batch, each - 1), n) << "fewer would do";
      }
    }
  }
}

TEST(SegmentTable, IsEmptyWithoutRows) {
  for (const auto& batch : {std::vector<std::int32_t>{}, std::vector<std::int32_t>{0, 0}}) {
    for (const std::int32_t entry : segment_chunks(batch)) EXPECT_EQ(entry, 0);
  }
}

}  // namespace
}  // namespace hybridattn::testing
