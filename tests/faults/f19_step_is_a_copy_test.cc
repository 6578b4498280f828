// F19: a planned step does not look at what the caller changes afterwards.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

TEST(F19OrderRace, TheBatchAndTheTableMoveOnBeforeTheStepRuns) {
  HandleAllocator pages("page", 64), slots("state slot", 8);
  RequestTable table(pages, &slots, 4, 4, 8);
  for (const bool graph : {false, true}) {
    HybridWorld world;
    AloneRequest alone(5, world.options, 64);
    const Handle row = *table.open();
    ASSERT_OK(table.reserve(row, 6));
    const std::int32_t slot = table.slot_id(row);
    world.poison_tokens();
    for (std::int32_t i = 0; i < 6; ++i) world.feed(5, i, i);
    std::shared_ptr<Plan> plan;
    std::unique_ptr<Graph> recorded;
    {
      const auto batch = ForwardBatch::create({*table.batch_row(row, RowKind::kPrefill, 6)});
      ASSERT_TRUE(batch.ok());
      if (graph) {
        plan = *world.backend->plan_graph({1, 0, 0, 6, 8});
        recorded = std::move(*Graph::record(*world.context, [&] { return world.run(*plan); }));
        ASSERT_OK(world.backend->replan(*plan, *batch));
      } else {
        plan = *world.backend->plan(*batch);
      }
    }
    // The batch is gone; the row closes and another request takes its slot and pages.
    ASSERT_OK(table.close(row));
    const Handle other = *table.open();
    ASSERT_OK(table.reserve(other, 20));
    ASSERT_EQ(table.slot_id(other), slot);
    ASSERT_OK(graph ? recorded->replay() : world.run(*plan));
    alone.advance(RowKind::kPrefill, 6);
    EXPECT_EQ(world.slot_bytes(slot), alone.state());
    ASSERT_OK(table.close(other));
  }
}

TEST(F19OrderRace, SeveralPlansLiveAtOnce) {
  HybridWorld world;
  AloneRequest one(1, world.options, 16), two(2, world.options, 16);
  const auto first =
      *world.backend->plan(*ForwardBatch::create({{RowKind::kPrefill, 0, {0}, 0, 3}}));
  const auto second =
      *world.backend->plan(*ForwardBatch::create({{RowKind::kPrefill, 6, {9, 4}, 0, 5}}));
  for (std::int32_t i = 0; i < 5; ++i) world.feed(2, i, i);
  ASSERT_OK(world.run(*second));
  for (std::int32_t i = 0; i < 3; ++i) world.feed(1, i, i);
  ASSERT_OK(world.run(*first));
  one.advance(RowKind::kPrefill, 3);
  two.advance(RowKind::kPrefill, 5);
  EXPECT_EQ(world.slot_bytes(0), one.state());
  EXPECT_EQ(world.slot_bytes(6), two.state());
}

}  // namespace
}  // namespace hybridattn::testing
