// ForwardBatch: what it refuses, and the mode it derives.
#include <limits>

#include "hybridattn/forward_batch.h"

#include <gtest/gtest.h>

#include "tests/support/contexts.h"

namespace hybridattn::testing {
namespace {

BatchRow row(RowKind kind, std::int32_t slot, std::int32_t tokens, std::int64_t computed = 0) {
  return {kind, slot, {}, computed, tokens};
}
Status status_of(std::vector<BatchRow> rows) {
  return ForwardBatch::create(std::move(rows)).status();
}
ForwardMode mode_of(std::vector<BatchRow> rows) {
  return ForwardBatch::create(std::move(rows))->mode();
}

TEST(ForwardBatch, WrongRowsAreNamed) {
  const BatchRow good = row(RowKind::kPrefill, 3, 5);
  EXPECT_ERROR(status_of({good, row(RowKind::kDecode, 1, 2)}), kInvalidArgument, "row 1", "decode",
               "new_tokens 2", "must be 1");
  EXPECT_ERROR(status_of({row(RowKind::kDecode, 1, 0)}), kInvalidArgument, "new_tokens 0");
  EXPECT_ERROR(status_of({row(RowKind::kPrefill, 1, -1)}), kInvalidArgument, "new_tokens -1");
  EXPECT_ERROR(status_of({row(RowKind::kPrefill, 1, 1, -4)}), kInvalidArgument, "computed -4");
  EXPECT_ERROR(status_of({row(RowKind::kPrefill, -2, 1)}), kInvalidArgument, "slot -2");
  EXPECT_ERROR(status_of({good, row(RowKind::kPad, 2, 1)}), kInvalidArgument, "row 1", "pad",
               "slot 2");
  EXPECT_ERROR(status_of({{RowKind::kPad, kPadIndex, {1, 2}, 0, 1}}), kInvalidArgument, "2 pages");
  EXPECT_ERROR(status_of({good, row(RowKind::kPad, kPadIndex, 0), row(RowKind::kDecode, 3, 1)}),
               kInvalidArgument, "rows 0 and 2", "slot 3");
  EXPECT_ERROR(status_of({row(RowKind::kPrefill, 0, 1, 2147483647)}), kInvalidArgument, "row 0",
               "2147483647 computed and 1 new");
  EXPECT_ERROR(
      status_of({row(RowKind::kPrefill, 0, 2000000000), row(RowKind::kPrefill, 1, 2000000000)}),
      kInvalidArgument, "4000000000", "2^31");
  BatchRow most = row(RowKind::kPrefill, 1, std::numeric_limits<std::int32_t>::max());
  most.computed = std::numeric_limits<std::int64_t>::max();
  EXPECT_ERROR(status_of({most}), kInvalidArgument, "9223372036854775807", "2^31");
  EXPECT_ERROR(status_of({row(static_cast<RowKind>(77), 1, 1)}), kInvalidArgument, "kind 77");
}

TEST(ForwardBatch, RowsWithoutSlotsMayBeMany) {
  EXPECT_OK(
      status_of({row(RowKind::kPrefill, kPadIndex, 1), row(RowKind::kPrefill, kPadIndex, 1)}));
}

TEST(ForwardBatch, TokensFollowTheRowsPadsIncluded) {
  const auto batch =
      *ForwardBatch::create({row(RowKind::kPrefill, 3, 5), row(RowKind::kPad, -1, 2),
                             row(RowKind::kPrefill, 4, 0), row(RowKind::kDecode, 0, 1)});
  EXPECT_EQ(batch.num_rows(), 4);
  EXPECT_EQ(batch.num_tokens(), 8);
  EXPECT_EQ(batch.token_start(0), 0);
  EXPECT_EQ(batch.token_start(1), 5);
  EXPECT_EQ(batch.token_start(2), 7);
  EXPECT_EQ(batch.token_start(3), 7);
}

TEST(ForwardBatch, ModesComeFromRowsWithTokens) {
  const BatchRow prefill = row(RowKind::kPrefill, 0, 3);
  const BatchRow empty = row(RowKind::kPrefill, 1, 0);
  const BatchRow decode = row(RowKind::kDecode, 2, 1);
  const BatchRow verify = row(RowKind::kVerify, 3, 4);
  const BatchRow pad = row(RowKind::kPad, kPadIndex, 2);
  EXPECT_EQ(mode_of({}), ForwardMode::kIdle);
  EXPECT_EQ(mode_of({pad, pad, empty}), ForwardMode::kIdle);
  EXPECT_EQ(mode_of({pad, prefill, empty}), ForwardMode::kExtend);
  EXPECT_EQ(mode_of({decode, empty, pad}), ForwardMode::kDecode);
  EXPECT_EQ(mode_of({decode, prefill}), ForwardMode::kMixed);
  EXPECT_EQ(mode_of({verify, pad}), ForwardMode::kTargetVerify);
  EXPECT_EQ(mode_of({verify, decode}), ForwardMode::kMixed);
}

TEST(ForwardBatch, NamesAndIds) {
  EXPECT_EQ(row_kind_name(RowKind::kPrefill), "prefill");
  EXPECT_EQ(row_kind_name(RowKind::kVerify), "verify");
  EXPECT_EQ(forward_mode_name(ForwardMode::kTargetVerify), "target_verify");
  EXPECT_EQ(forward_mode_name(ForwardMode::kIdle), "idle");
  EXPECT_NE(ForwardBatch::create({})->id(), ForwardBatch::create({})->id());
}

}  // namespace
}  // namespace hybridattn::testing
