// What attention and store_kv refuse, and that a query's result is its own.
#include <limits>

#include <algorithm>
#include <string>

#include "tests/support/canary.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {
namespace {

class AttentionRowsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (Buffer* b : {&q, &k, &v}) b->fill(random.values(b->num_elements(), -1, 1));
  }
  AttentionArgs args(const KvRows& rows) {
    return {rows.view(true), q.view(), k.view(), v.view(), out.view(), {}, {}, options};
  }
  Status run(std::int32_t first, std::int32_t queries, std::int32_t keys,
             const std::vector<std::int32_t>& pages) {
    KvRows rows;
    rows.add(0, 1, 1, {2});
    rows.add(first, queries, keys, pages);
    const Status status = attention(*context, args(rows));
    EXPECT_TRUE(status.ok() || out.is_poison({})) << "nothing is written on an error";
    return status;
  }

  std::unique_ptr<Context> context = make_context();
  Random random{3};
  AttentionOptions options{0.25f, true, 0.0f, -1};
  Buffer q{DType::kF32, {6, 2, 16}}, out{DType::kF32, {6, 2, 16}};
  Buffer k{DType::kF32, {5, 4, 1, 16}}, v{DType::kF32, {5, 4, 1, 16}};
};

TEST_F(AttentionRowsTest, BadRowsAreNamed) {
  EXPECT_ERROR(run(5, 2, 2, {0}), kOutOfRange, "row 1", "[5, 7)", "6)");
  EXPECT_ERROR(run(-1, 1, 2, {0}), kOutOfRange, "row 1", "[-1, 0)");
  EXPECT_ERROR(run(2, -1, 2, {0}), kOutOfRange, "row 1");
  EXPECT_ERROR(run(2, 1, -2, {0}), kInvalidArgument, "row 1", "kv_length -2");
  EXPECT_ERROR(run(2, 1, 5, {0}), kOutOfRange, "row 1", "reads 2 pages from 1", "which has 2");
  EXPECT_ERROR(run(2, 1, 5, {0, 5}), kOutOfRange, "row 1", "page 1 of 2", "has 5", "[0, 5)");
  EXPECT_ERROR(run(2, 1, 5, {-1, 0}), kOutOfRange, "row 1", "page 0 of 2", "has -1");
  EXPECT_OK(run(2, 1, 5, {0, 4}));
}

TEST_F(AttentionRowsTest, PagesLeftOfTheWindowMayBeGone) {
  options.window = 3;
  EXPECT_OK(run(2, 1, 11, {-1, -1, 4}));
  out = Buffer(DType::kF32, {6, 2, 16});
  EXPECT_ERROR(run(2, 2, 11, {-1, -1, 4}), kOutOfRange, "page 1 of 3", "has -1");
  EXPECT_ERROR(run(2, 1, 11, {-1, 1, -1}), kOutOfRange, "page 2 of 3");
}

TEST_F(AttentionRowsTest, BadDenseRowsAreNamed) {
  Buffer keys(DType::kF32, {7, 1, 16});
  const auto dense = [&](std::int32_t kv_length, std::int64_t first) {
    KvRows rows;
    rows.add(0, 1, kv_length, {}, first);
    return attention(
        *context,
        {rows.view(false), q.view(), keys.view(), keys.view(), out.view(), {}, {}, options});
  };
  EXPECT_ERROR(dense(5, 3), kOutOfRange, "row 0", "reads 5 keys from 3", "7)");
  EXPECT_ERROR(dense(5, -1), kOutOfRange, "row 0", "reads 5 keys from -1");
  EXPECT_ERROR(dense(5, std::numeric_limits<std::int64_t>::max()), kOutOfRange, "row 0");
  KvRows rows;
  rows.add(0, 1, 1, {0});
  rows.kv_start[0] = std::numeric_limits<std::int64_t>::max();
  EXPECT_ERROR(attention(*context, args(rows)), kOutOfRange, "row 0", "reads 1 pages");
  rows.kv_start[0] = 0;
  AttentionArgs mixed = args(rows);
  mixed.v = keys.view();
  EXPECT_ERROR(attention(*context, mixed), kInvalidArgument, "v");
  mixed = args(rows);
  mixed.rows.pages = nullptr;
  EXPECT_ERROR(attention(*context, mixed), kInvalidArgument, "rows.pages is null");
  for (int missing = 0; missing < 4; ++missing) {
    mixed = args(rows);
    if (missing == 0) mixed.rows.q_start = nullptr;
    if (missing == 1) mixed.rows.q_length = nullptr;
    if (missing == 2) mixed.rows.kv_length = nullptr;
    if (missing == 3) mixed.rows.kv_start = nullptr;
    EXPECT_ERROR(attention(*context, mixed), kInvalidArgument, "null");
  }
}

TEST_F(AttentionRowsTest, BadOptionsAreNamed) {
  options.scale = 0;
  EXPECT_ERROR(run(2, 1, 1, {0}), kInvalidArgument, "scale is 0");
  options = {1.0f, true, -1.0f, -1};
  EXPECT_ERROR(run(2, 1, 1, {0}), kInvalidArgument, "logit_cap is -1");
}

TEST_F(AttentionRowsTest, StoreKvRefusesPlacesOutsideOfTheCache) {
  Buffer keys(DType::kF32, {2, 1, 16});
  keys.fill(random.values(32, -1, 1));
  const Canary before(k);
  for (const std::int64_t place : {20, -2, 1 << 30}) {
    const std::int64_t places[] = {3, place};
    EXPECT_ERROR(store_kv(*context, {keys.view(), keys.view(), places, k.view(), v.view()}),
                 kOutOfRange, "token_slots[1]", std::to_string(place), "20)");
  }
  EXPECT_ERROR(store_kv(*context, {keys.view(), keys.view(), nullptr, k.view(), v.view()}),
               kInvalidArgument, "token_slots is null");
  EXPECT_TRUE(before.intact());
}

/// `total` queries of one row in calls of `step` at a time.
Bytes in_steps(Context& context, std::int32_t step, std::int32_t total,
               const AttentionOptions& options, bool sinks) {
  Random random(4);
  Buffer q(DType::kF32, {total, 6, 24});
  Buffer k(DType::kF32, {12, 16, 2, 24});
  Buffer v(DType::kF32, {12, 16, 2, 24});
  Buffer sink(DType::kF32, {6});
  for (Buffer* b : {&q, &k, &v, &sink}) b->fill(random.values(b->num_elements(), -1, 1));
  Buffer out(DType::kF32, {total, 6, 24});
  std::vector<std::int32_t> pages{11, 3, 0, 7, 5, 1, 9, 2, 4, 6, 8, 10};
  for (std::int32_t done = 0; done < total; done += step) {
    const std::int32_t n = std::min(step, total - done);
    KvRows rows;
    rows.add(done, n, 50 + done + n, pages);
    EXPECT_OK(attention(context, {rows.view(true),
                                  q.view(),
                                  k.view(),
                                  v.view(),
                                  out.view(),
                                  sinks ? sink.view() : TensorView(),
                                  {},
                                  options}));
  }
  return out.memory();
}

TEST(AttentionQueries, HowARowIsCutChangesNoBit) {
  for (const Isa isa : supported_isas()) {
    ContextOptions invariant;  // else a query alone has its own order of sums
    invariant.isa = isa;
    invariant.threads = 2;
    invariant.chunk_invariant = true;
    const auto context = make_context(invariant);
    for (const std::int32_t window : {-1, 5, 64, 77}) {
      const AttentionOptions options{0.2f, true, window == 5 ? 3.0f : 0.0f, window};
      const auto whole = in_steps(*context, 130, 130, options, window == 64);
      for (const std::int32_t step : {1, 7, 21, 64}) {
        EXPECT_EQ(in_steps(*context, step, 130, options, window == 64), whole)
            << "window " << window << ", " << step << " at a time";
      }
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
