// Status, Result, concat and the throwing wrapper.
#include "hybridattn/status.h"

#include <gmock/gmock.h>

#include "hybridattn/exceptions.h"
#include "hybridattn/status_macros.h"
#include "hybridattn/version.h"
#include "tests/support/contexts.h"

namespace hybridattn::testing {
namespace {

TEST(Status, DefaultIsOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kOk);
  EXPECT_EQ(status.message(), "");
}

TEST(Status, EveryCodeHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(StatusCode::kInternal); ++code) {
    names.insert(status_code_name(static_cast<StatusCode>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(StatusCode::kInternal) + 1);
  EXPECT_EQ(status_code_name(StatusCode::kFailedPrecondition), "failed_precondition");
  EXPECT_EQ(names.count("unknown"), 0u);
}

TEST(Concat, WritesEachKindInItsShortestExactForm) {
  EXPECT_EQ(concat("a", std::string("b"), 3, -4, true, false), "ab3-4truefalse");
  EXPECT_EQ(concat(0.1f), "0.1");
  EXPECT_EQ(concat(0.1), "0.1");
  EXPECT_EQ(concat(1e-6f), "1e-06");
  EXPECT_EQ(concat(static_cast<double>(0.1f)), "0.10000000149011612");
  EXPECT_EQ(concat(std::int64_t{1} << 40), "1099511627776");
  EXPECT_EQ(concat(std::uint64_t{18446744073709551615u}), "18446744073709551615");
  EXPECT_EQ(concat(), "");
}

TEST(Result, HoldsAValueOrAStatus) {
  const Result<int> good = 7;
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(*good, 7);
  const Result<int> bad = invalid_argument("x is ", 3);
  EXPECT_FALSE(bad.ok());
  EXPECT_ERROR(bad.status(), kInvalidArgument, "x is 3");
}

TEST(Result, AnOkStatusIsNoValue) {
  const Result<int> wrong = Status();
  EXPECT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.status().code(), StatusCode::kInternal);
}

TEST(Result, MovesWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 5);
}

Result<int> half(int x) {
  if (x % 2 != 0) return invalid_argument("half: x is ", x);
  return x / 2;
}
Result<int> quarter(int x) {
  HYBRIDATTN_ASSIGN(const int once, half(x));
  HYBRIDATTN_ASSIGN(const int twice, half(once));
  HYBRIDATTN_TRY(Status());
  return twice;
}

TEST(Macros, HandErrorsOn) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_ERROR(quarter(6).status(), kInvalidArgument, "x is 3");
}

TEST(Exceptions, ThrowWhatTheStatusSays) {
  EXPECT_NO_THROW(or_throw(Status()));
  EXPECT_EQ(or_throw(half(4)), 2);
  try {
    or_throw(half(3));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "half: x is 3");
  }
}

TEST(Version, IsThatOfTheHeader) {
  EXPECT_EQ(std::string(version()), concat(HYBRIDATTN_VERSION_MAJOR, ".", HYBRIDATTN_VERSION_MINOR,
                                           ".", HYBRIDATTN_VERSION_PATCH));
}

}  // namespace
}  // namespace hybridattn::testing
