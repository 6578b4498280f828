// What the ops over ragged rows refuse: the row is named, and nothing is written.
#include <functional>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

/// The three ops over one set of rows: 10 tokens, 3 slots. Nothing may be written on an error.
class RaggedOps {
 public:
  explicit RaggedOps(Context& context) : context_(context), case_(dims()) {
    Random random(1);
    for (Buffer* b : {&x_, &weight_, &window_}) b->fill(random.values(b->num_elements(), -1, 1));
  }

  void expect_refused(const RaggedRows& rows, StatusCode code,
                      const std::vector<const char*>& texts, bool step_too = true) {
    const Canary states(case_.state.kernel());
    const Canary windows(window_);
    GdnArgs args = case_.args(Source::kKernel);
    args.rows = rows;
    std::vector<Status> all{
        gdn_prefill(context_, args),
        causal_conv(context_, {rows, x_.view(), weight_.view(), window_.view(), out_.view()})};
    if (step_too) all.push_back(gdn_step(context_, args));
    for (const Status& status : all) {
      EXPECT_EQ(status.code(), code) << status.message();
      for (const char* text : texts) {
        EXPECT_NE(status.message().find(text), std::string::npos)
            << text << " is not in: " << status.message();
      }
    }
    EXPECT_TRUE(states.intact());
    EXPECT_TRUE(windows.intact());
    EXPECT_TRUE(out_.is_poison({}));
    EXPECT_TRUE(case_.out.kernel().is_poison({}));
  }
  void expect_refused(const Rows& rows, StatusCode code, const std::vector<const char*>& texts) {
    expect_refused(rows.view(), code, texts);
  }
  Status step(const Rows& rows) {
    GdnArgs args = case_.args(Source::kKernel);
    args.rows = rows.view();
    return gdn_step(context_, args);
  }

 private:
  static GdnCase::Dims dims() {
    GdnCase::Dims d;
    d.tokens = 10;
    d.slots = 3;
    return d;
  }
  Context& context_;
  GdnCase case_;
  Buffer x_{DType::kF32, {10, 8}}, weight_{DType::kF32, {8, 4}};
  Buffer window_{DType::kF32, {3, 8, 3}}, out_{DType::kF32, {10, 8}};
};

/// A legal row, then the one under test.
Rows second_row(std::int32_t start, std::int32_t length, std::int32_t slot, std::int32_t computed) {
  Rows rows;
  rows.add(0, 1, 0, 1);
  rows.add(start, length, slot, computed);
  return rows;
}

TEST(RaggedRows, TokensOutsideOfTheStream) {
  const auto context = make_context();
  RaggedOps ops(*context);
  ops.expect_refused(second_row(10, 1, 1, 0), StatusCode::kOutOfRange,
                     {"row 1", "[10, 11)", "10)"});
  ops.expect_refused(second_row(9, 2, 1, 0), StatusCode::kOutOfRange, {"row 1", "[9, 11)"});
  ops.expect_refused(second_row(-1, 1, 1, 0), StatusCode::kOutOfRange, {"row 1", "[-1, 0)"});
  ops.expect_refused(second_row(3, -1, 1, 0), StatusCode::kOutOfRange, {"row 1", "[3, 2)"});
  ops.expect_refused(second_row(2147483647, 2147483647, 1, 0), StatusCode::kOutOfRange,
                     {"4294967294"});
}

TEST(RaggedRows, SlotsOutsideOfThePool) {
  const auto context = make_context();
  RaggedOps ops(*context);
  ops.expect_refused(second_row(1, 1, 3, 0), StatusCode::kOutOfRange, {"row 1", "slot 3", "3)"});
  ops.expect_refused(second_row(1, 1, -2, 0), StatusCode::kOutOfRange, {"row 1", "slot -2"});
  ops.expect_refused(second_row(1, 0, 7, 0), StatusCode::kOutOfRange, {"row 1", "slot 7"});
}

TEST(RaggedRows, NegativeCounts) {
  const auto context = make_context();
  RaggedOps ops(*context);
  ops.expect_refused(second_row(1, 1, 1, -1), StatusCode::kInvalidArgument,
                     {"row 1", "computed -1", "at least 0"});
  RaggedRows rows;
  rows.count = -1;
  ops.expect_refused(rows, StatusCode::kInvalidArgument, {"rows.count is -1"});
}

TEST(RaggedRows, MissingArrays) {
  const auto context = make_context();
  RaggedOps ops(*context);
  Rows owned;
  owned.add(0, 1, 0, 1);
  for (int missing = 0; missing < 4; ++missing) {
    RaggedRows rows = owned.view();
    if (missing == 0) rows.start = nullptr;
    if (missing == 1) rows.length = nullptr;
    if (missing == 2) rows.slot = nullptr;
    if (missing == 3) rows.computed = nullptr;
    const char* names[] = {"rows.start", "rows.length", "rows.slot", "rows.computed"};
    ops.expect_refused(rows, StatusCode::kInvalidArgument, {names[missing], "null"});
  }
}

TEST(RaggedRows, AStepHasOneTokenAtMost) {
  const auto context = make_context();
  RaggedOps ops(*context);
  EXPECT_ERROR(ops.step(second_row(1, 2, 1, 0)), kInvalidArgument, "gdn_step: row 1", "length 2",
               "at most 1");
}

TEST(RaggedRows, TheConvolutionsWidth) {
  const auto context = make_context();
  Buffer x(DType::kF32, {2, 8});
  Rows rows;
  rows.add(0, 1, 0, 1);
  for (const std::int64_t width : {1, 5}) {
    Buffer weight(DType::kF32, {8, width});
    Buffer window(DType::kF32, {1, 8, width - 1});
    EXPECT_ERROR(
        causal_conv(*context, {rows.view(), x.view(), weight.view(), window.view(), x.view()}),
        kUnsupported, "must be 2 to 4", width == 1 ? "W = 1" : "W = 5");
  }
  Buffer weight(DType::kF32, {8, 4});
  Buffer window(DType::kF32, {1, 8, 4});
  EXPECT_ERROR(
      causal_conv(*context, {rows.view(), x.view(), weight.view(), window.view(), x.view()}),
      kInvalidArgument, "W-1 = 4", "must be 3");
}

}  // namespace
}  // namespace hybridattn::testing
