// F51: accepted counts belong to requests, not to places: a request that ends while its drafts are
// in flight takes nobody else's count, and its successor keeps the slot as it is.
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kVerify = RowKind::kVerify;

class F51CountsMoved : public ::testing::Test {
 protected:
  static WorldOptions options() {
    WorldOptions o;
    o.kept = 12;
    return o;
  }
  /// Prefills `tokens` of each request of these rows.
  void prefill(const std::vector<std::pair<Handle, std::uint64_t>>& rows, std::int32_t tokens) {
    std::vector<BatchRow> batch_rows;
    std::int32_t token = 0;
    world.poison_tokens();
    for (const auto& [row, request] : rows) {
      ASSERT_OK(table.reserve(row, tokens + 8));
      batch_rows.push_back(*table.batch_row(row, kPrefill, tokens));
      for (std::int32_t i = 0; i < tokens; ++i) world.feed(request, i, token++);
    }
    const auto plan = *world.backend->plan(*ForwardBatch::create(batch_rows));
    ASSERT_OK(world.run(*plan));
    for (const auto& entry : rows) ASSERT_OK(table.advance(entry.first, tokens));
  }

  HybridWorld world{options()};
  HandleAllocator pages{"page", 64}, slots{"state slot", 8};
  RequestTable table{pages, &slots, world.options.page_size, 4, 8};
};

TEST_F(F51CountsMoved, AMiddleRequestEndsWhileItsDraftsAreInFlight) {
  const Handle a = *table.open(), b = *table.open(), c = *table.open();
  prefill({{a, 1}, {b, 2}, {c, 3}}, 5);
  std::vector<BatchRow> rows;
  std::int32_t token = 0;
  for (const auto& [row, request] :
       std::vector<std::pair<Handle, std::uint64_t>>{{a, 1}, {b, 2}, {c, 3}}) {
    rows.push_back(*table.batch_row(row, kVerify, 4));
    for (std::int32_t i = 0; i < 4; ++i) world.feed(request, 5 + i, token++);
  }
  const auto in_flight = *world.backend->plan(*ForwardBatch::create(rows));
  ASSERT_OK(world.run(*in_flight));
  // Before the counts are known, b ends; d gets its row, its slot and its pages, and runs.
  const std::int32_t slot = table.slot_id(b);
  ASSERT_OK(table.close(b));
  const Handle d = *table.open();
  EXPECT_EQ(d.index, b.index);
  EXPECT_EQ(table.slot_id(d), slot);
  prefill({{d, 4}}, 6);
  const auto of_d = world.slot_bytes(slot);

  const std::vector<Handle> handles{a, b, c};
  const std::vector<std::int32_t> counts{0, 3, 2};
  ASSERT_OK(world.backend->commit(*in_flight, table, handles, counts));
  EXPECT_EQ(table.computed(a), 6);
  EXPECT_EQ(table.computed(c), 8);
  EXPECT_EQ(table.computed(d), 6) << "the count of b is not that of d";
  EXPECT_EQ(world.slot_bytes(slot), of_d) << "nor is its state";
  for (const auto& [row, request, length] :
       std::vector<std::tuple<Handle, std::uint64_t, std::int32_t>>{{a, 1, 1}, {c, 3, 3}}) {
    AloneRequest alone(request, world.options, 64);
    alone.advance(kPrefill, 5);
    for (std::int32_t i = 0; i < length; ++i) alone.advance(RowKind::kDecode, 1);
    EXPECT_EQ(world.slot_bytes(table.slot_id(row)), alone.state()) << "request " << request;
  }
}

TEST_F(F51CountsMoved, TheNextStepWaitsForTheCountsOfTheLast) {
  const auto plan = *world.backend->plan_graph({0, 2, 2, 12, 16});
  const auto graph = *Graph::record(*world.context, [&] { return world.run(*plan); });
  const Handle a = *table.open();
  prefill({{a, 1}}, 5);
  const auto verify = *ForwardBatch::create({*table.batch_row(a, kVerify, 4)});
  const auto next = *ForwardBatch::create({*table.batch_row(a, RowKind::kDecode, 1)});
  ASSERT_OK(world.backend->replan(*plan, verify));
  ASSERT_OK(world.backend->replan(*plan, verify));  // nothing has run yet
  ASSERT_OK(graph->replay());
  // The plan would then hold the rows of another step, and the counts of this one would meet them.
  EXPECT_ERROR(world.backend->replan(*plan, next), kFailedPrecondition, "1 verify rows",
               "not committed");
  ASSERT_OK(world.backend->commit(*plan, table, std::vector{a}, std::vector<std::int32_t>{1}));
  EXPECT_EQ(table.computed(a), 7);
  EXPECT_OK(world.backend->replan(*plan, next));
}

/// The kept states of all drafts are one pool: a second step of drafts must not write over the
/// first one's before they are committed.
TEST_F(F51CountsMoved, DraftsOfASecondStepWaitForTheFirstOnesCommit) {
  const Handle a = *table.open(), b = *table.open();
  prefill({{a, 1}, {b, 2}}, 5);
  const auto of_a = *ForwardBatch::create({*table.batch_row(a, kVerify, 3)});
  const auto of_b = *ForwardBatch::create({*table.batch_row(b, kVerify, 3)});
  for (std::int32_t i = 0; i < 3; ++i) world.feed(1, 5 + i, i);
  // Two plans of which neither has run: the later one is the one that counts.
  const auto lost = *world.backend->plan(of_b);
  const auto first = *world.backend->plan(of_a);
  EXPECT_ERROR(world.run(*lost), kFailedPrecondition, "superseded");
  EXPECT_ERROR(world.backend->commit(*lost, std::vector<std::int32_t>{0}), kFailedPrecondition,
               "superseded");
  EXPECT_ERROR(world.backend->commit(*first, std::vector<std::int32_t>{0}), kFailedPrecondition,
               "has not run");
  ASSERT_OK(world.run(*first));
  EXPECT_ERROR(world.backend->plan(of_b).status(), kFailedPrecondition, "not committed");
  const auto graph_plan = *world.backend->plan_graph({0, 1, 1, 4, 16});
  EXPECT_ERROR(world.backend->replan(*graph_plan, of_b), kFailedPrecondition, "not committed");
  EXPECT_TRUE(world.backend->plan(*ForwardBatch::create({*table.batch_row(b, kPrefill, 1)})).ok())
      << "steps without drafts are free";
  ASSERT_OK(world.backend->commit(*first, table, std::vector{a}, std::vector<std::int32_t>{2}));
  AloneRequest alone(1, world.options, 64);
  alone.advance(kPrefill, 5);
  for (int i = 0; i < 3; ++i) alone.advance(RowKind::kDecode, 1);
  EXPECT_EQ(world.slot_bytes(table.slot_id(a)), alone.state());
  EXPECT_TRUE(world.backend->plan(of_b).ok());
}

TEST_F(F51CountsMoved, AReplayOfASupersededPlanIsRefused) {
  const Handle a = *table.open(), b = *table.open();
  prefill({{a, 1}, {b, 2}}, 5);
  const auto of_a = *ForwardBatch::create({*table.batch_row(a, kVerify, 3)});
  const auto of_b = *ForwardBatch::create({*table.batch_row(b, kVerify, 3)});
  const auto plan = *world.backend->plan_graph({0, 0, 1, 3, 16});
  const auto graph = *Graph::record(*world.context, [&] { return world.run(*plan); });
  ASSERT_OK(world.backend->replan(*plan, of_a));
  const auto other = *world.backend->plan(of_b);
  EXPECT_ERROR(graph->replay(), kFailedPrecondition, "superseded");
  EXPECT_ERROR(world.backend->commit(*plan, std::vector<std::int32_t>{1}), kFailedPrecondition);
}

TEST_F(F51CountsMoved, AHandleOfAnotherRowOrAtAnotherCountIsRefused) {
  const Handle a = *table.open(), b = *table.open();
  prefill({{a, 1}, {b, 2}}, 5);
  const auto plan = *world.backend->plan(*ForwardBatch::create({*table.batch_row(a, kVerify, 3)}));
  for (std::int32_t i = 0; i < 3; ++i) world.feed(1, 5 + i, i);
  ASSERT_OK(world.run(*plan));
  const auto before = world.slot_bytes(table.slot_id(a));
  const std::vector<std::int32_t> two{2};
  EXPECT_ERROR(world.backend->commit(*plan, table, std::vector{b}, two), kInvalidArgument, "row 0",
               "slot 1", "slot 0");
  ASSERT_OK(table.advance(a, 1));
  EXPECT_ERROR(world.backend->commit(*plan, table, std::vector{a}, two), kInvalidArgument,
               "6 tokens", "5");
  EXPECT_EQ(table.computed(b), 5);
  EXPECT_EQ(world.slot_bytes(table.slot_id(a)), before);
}

TEST_F(F51CountsMoved, AnotherBackendsPlanIsRefused) {
  HybridWorld other{options()};
  const Handle a = *table.open();
  prefill({{a, 1}}, 5);
  const auto plan = *world.backend->plan(*ForwardBatch::create({*table.batch_row(a, kVerify, 2)}));
  EXPECT_ERROR(other.run(*plan), kFailedPrecondition, "another backend's");
  EXPECT_ERROR(other.backend->commit(*plan, std::vector<std::int32_t>{0}), kFailedPrecondition,
               "another backend's");
  const auto graph_plan = *world.backend->plan_graph({0, 1, 0, 1, 4});
  EXPECT_ERROR(other.backend->replan(*graph_plan, *ForwardBatch::create({})), kFailedPrecondition,
               "another backend's");
}

TEST_F(F51CountsMoved, CountsThatCannotBeLeaveAllAsItWas) {
  const Handle a = *table.open();
  prefill({{a, 1}}, 5);
  const auto plan = *world.backend->plan(*ForwardBatch::create({*table.batch_row(a, kVerify, 3)}));
  for (std::int32_t i = 0; i < 3; ++i) world.feed(1, 5 + i, i);
  ASSERT_OK(world.run(*plan));
  const auto before = world.slot_bytes(table.slot_id(a));
  const auto commit = [&](const std::vector<Handle>& rows, const std::vector<std::int32_t>& last) {
    return world.backend->commit(*plan, table, rows, last);
  };
  EXPECT_ERROR(commit({a}, {3}), kOutOfRange, "row 0", "last_accepted is 3");
  EXPECT_ERROR(commit({a}, {-2}), kOutOfRange, "last_accepted is -2");
  EXPECT_ERROR(commit({a}, {0, 0}), kInvalidArgument, "2 entries", "1 rows");
  EXPECT_ERROR(commit({a, a}, {0}), kInvalidArgument, "rows has 2 entries");
  EXPECT_EQ(table.computed(a), 5);
  EXPECT_EQ(world.slot_bytes(table.slot_id(a)), before);
  EXPECT_OK(commit({a}, {-1}));
  EXPECT_EQ(table.computed(a), 5);
  EXPECT_ERROR(commit({a}, {-1}), kFailedPrecondition, "committed already");
}

}  // namespace
}  // namespace hybridattn::testing
