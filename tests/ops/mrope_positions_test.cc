// Positions of prompts with pictures, and the delta that decoding keeps.
#include <gtest/gtest.h>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

using Positions = std::vector<std::int64_t>;

TEST(MropePositions, TextIsOnePositionThreeTimes) {
  const MropeSpan text{4, 0, 0};
  const auto got = mrope_positions({&text, 1});
  ASSERT_TRUE(got.ok());
  for (const auto* axis : {&got->time, &got->height, &got->width}) {
    EXPECT_EQ(*axis, (Positions{0, 1, 2, 3}));
  }
  EXPECT_EQ(got->delta, 0);
}

TEST(MropePositions, APictureStandsAtOneTimeAndMovesByItsLongerSide) {
  const std::vector<MropeSpan> spans{{2, 0, 0}, {0, 2, 3}, {1, 0, 0}, {0, 3, 1}, {1, 0, 0}};
  const auto got = mrope_positions(spans);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->time, (Positions{0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 6, 9}));
  EXPECT_EQ(got->height, (Positions{0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9}));
  EXPECT_EQ(got->width, (Positions{0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 6, 9}));
  // 13 tokens, and the next stands at 10.
  EXPECT_EQ(got->delta, -3);
}

TEST(MropePositions, ASpanIsOneOrTheOther) {
  for (const MropeSpan& bad : {MropeSpan{0, 0, 0}, MropeSpan{3, 1, 1}, MropeSpan{0, 2, 0},
                               MropeSpan{-1, 0, 0}, MropeSpan{0, -2, 3}}) {
    const std::vector<MropeSpan> spans{{1, 0, 0}, bad};
    EXPECT_ERROR(mrope_positions(spans).status(), kInvalidArgument, "span 1");
  }
}

TEST(MropePositions, MoreThanAStepCanHoldIsRefused) {
  for (const MropeSpan& huge : {MropeSpan{INT64_MAX, 0, 0}, MropeSpan{0, 1 << 16, 1 << 16}}) {
    EXPECT_ERROR(mrope_positions({&huge, 1}).status(), kInvalidArgument, "under 2^31");
  }
}

TEST(MropePositions, TheTableKeepsTheDeltaOfARequest) {
  HandleAllocator pages("page", 4);
  RequestTable table(pages, nullptr, 4, 2, 2);
  const Handle row = *table.open();
  EXPECT_EQ(table.position_delta(row), 0);
  ASSERT_OK(table.set_position_delta(row, -3));
  EXPECT_EQ(table.position_delta(row), -3);
  ASSERT_OK(table.close(row));
  EXPECT_ERROR(table.set_position_delta(row, 1), kFailedPrecondition, "not open");
  EXPECT_EQ(table.position_delta(*table.open()), 0) << "the next owner has none";
}

TEST(MropeTable, WrongArgumentsAreNamed) {
  const auto context = make_context();
  Buffer cosine(DType::kF32, {2, 4}), sine(DType::kF32, {2, 4});
  const std::int64_t good[] = {0, 1}, bad[] = {0, -1};
  const auto call = [&](const std::int64_t* height, const std::int64_t* width,
                        const std::array<int, 3>& sections) {
    return rotary_table(*context,
                        {good, 1e4, 8, cosine.view(), sine.view(), height, width, sections});
  };
  EXPECT_ERROR(call(good, nullptr, {2, 1, 1}), kInvalidArgument, "height is given",
               "width is null");
  EXPECT_ERROR(call(good, good, {2, 1, 2}), kInvalidArgument, "sections are 2, 1, 2", "R/2 = 4");
  EXPECT_ERROR(call(good, good, {5, -1, 0}), kInvalidArgument, "sections are 5, -1, 0");
  EXPECT_ERROR(call(bad, good, {2, 1, 1}), kInvalidArgument, "height[1] is -1");
  EXPECT_ERROR(call(good, bad, {2, 1, 1}), kInvalidArgument, "width[1] is -1");
  EXPECT_TRUE(cosine.is_poison({}));
}

}  // namespace
}  // namespace hybridattn::testing
