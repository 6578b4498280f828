// Between a plan and the end of its step nothing is taken from the heap: not by a run verb, not by
// a commit, and in a replay not by rewriting the plan either.
#include "tests/support/allocation_watch.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

TEST(AllocationWatchTest, SeesWhatIsAllocated) {
  const AllocationWatch watch;
  const auto made = std::make_unique<int>(3);
  std::vector<int> grown(1000, *made);
  EXPECT_GE(watch.count(), 2);
  EXPECT_EQ(grown.back(), 3);
}

WorldOptions options(bool channel_decay) {
  WorldOptions o;
  o.kept = 32;
  o.threads = 2;
  o.window = 20;
  o.logit_cap = 3;
  o.sinks = true;
  o.kv_dtype = DType::kF8E4M3;
  o.channel_decay = channel_decay;
  return o;
}

/// The driver of a GPU takes from the heap as it likes: tests/cuda/quiet_runs_test.cc looks there.
#define SKIP_ON_GPU() \
  if (test_device() != DeviceType::kCpu) GTEST_SKIP() << "the heap of a GPU's driver"

ForwardBatch step_of_all_kinds() {
  return *ForwardBatch::create({{RowKind::kPrefill, 0, {0, 1, 2, 3, 4}, 3, 17},
                                {RowKind::kDecode, 1, {5, 6}, 6, 1},
                                {RowKind::kPad, kPadIndex, {}, 0, 2},
                                {RowKind::kVerify, 2, {7, 8, 9}, 5, 4},
                                {RowKind::kPad, kPadIndex, {}, 0, 0},
                                {RowKind::kVerify, 3, {10, 11, 12}, 4, 5, {-1, 0, 0, 2, 2}},
                                {RowKind::kDecode, 4, {13}, 2, 1}});
}
const std::vector<std::int32_t> kAccepted{-1, -1, -1, 2, -1, 4, -1};

class NoAllocation : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Decays, NoAllocation, ::testing::Bool());

TEST_P(NoAllocation, BetweenAnEagerPlanAndTheEndOfItsStep) {
  SKIP_ON_GPU();
  HybridWorld world(options(GetParam()));
  wait_for_workers(world.context->executor());
  const ForwardBatch batch = step_of_all_kinds();
  for (std::int32_t t = 0; t < batch.num_tokens(); ++t) world.feed(1, t, t);
  const auto plan = world.backend->plan(batch);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const AllocationWatch watch;
  const Status ran = world.run(**plan);
  const Status committed = world.backend->commit(**plan, kAccepted);
  EXPECT_EQ(watch.count(), 0);
  EXPECT_OK(ran);
  EXPECT_OK(committed);
}

TEST_P(NoAllocation, InAReplayFromItsFirstOn) {
  SKIP_ON_GPU();
  HybridWorld world(options(GetParam()));
  wait_for_workers(world.context->executor());
  const auto plan = *world.backend->plan_graph({2, 3, 2, 40, 40});
  const auto graph = *Graph::record(*world.context, [&] { return world.run(*plan); });
  const ForwardBatch batch = step_of_all_kinds();
  for (std::int32_t t = 0; t < 40; ++t) world.feed(1, t, t);
  for (int i = 0; i < 3; ++i) {
    const AllocationWatch watch;
    const Status planned = world.backend->replan(*plan, batch);
    const Status ran = graph->replay();
    const Status committed = world.backend->commit(*plan, kAccepted);
    EXPECT_EQ(watch.count(), 0) << "replay " << i;
    EXPECT_OK(planned);
    EXPECT_OK(ran);
    EXPECT_OK(committed);
  }
}

TEST(NoAllocationOfCommits, ByATableTakeNothingEither) {
  SKIP_ON_GPU();
  HybridWorld world(options(false));
  wait_for_workers(world.context->executor());
  HandleAllocator pages("page", world.options.pages), slots("state slot", world.options.slots);
  RequestTable table(pages, &slots, world.options.page_size, 4, 8);
  const Handle row = *table.open(12);
  ASSERT_OK(table.advance(row, 4));
  const auto batch = *ForwardBatch::create({*table.batch_row(row, RowKind::kVerify, 5)});
  for (std::int32_t t = 0; t < 5; ++t) world.feed(1, t, t);
  const auto plan = *world.backend->plan(batch);
  const std::vector<Handle> rows{row};
  const std::vector<std::int32_t> last{3};
  std::int64_t count = 0;
  Status ran, committed;
  {
    const AllocationWatch watch;
    ran = world.run(*plan);
    committed = world.backend->commit(*plan, table, rows, last);
    count = watch.count();
  }
  EXPECT_EQ(count, 0);
  EXPECT_OK(ran);
  EXPECT_OK(committed);
  EXPECT_EQ(table.computed(row), 8);
}

TEST(NoAllocationOfVerbs, TheUpstreamReplayTakesNothingEither) {
  SKIP_ON_GPU();
  HybridWorld world;
  HandleAllocator pages("page", world.options.pages), slots("state slot", world.options.slots);
  RequestTable table(pages, &slots, world.options.page_size, 4, 8);
  world.backend->set_request_table(&table);
  const Handle row = *table.open(20);
  ASSERT_OK(table.advance(row, 5));
  ASSERT_OK(world.backend->init_cuda_graph_state(4, 4));
  const std::vector<std::int32_t> index{row.index, kPadIndex}, lengths{6, 0};
  ASSERT_OK(world.backend->init_forward_metadata_capture_cuda_graph(2, 2, index, lengths,
                                                                    ForwardMode::kDecode));
  const Plan& plan = *world.backend->current_plan();
  const auto graph = *Graph::record(*world.context, [&] { return world.run(plan); });
  for (int i = 0; i < 2; ++i) {
    const AllocationWatch watch;
    const Status planned = world.backend->init_forward_metadata_replay_cuda_graph(
        2, index, lengths, 6, ForwardMode::kDecode, lengths);
    const Status ran = graph->replay();
    EXPECT_EQ(watch.count(), 0);
    EXPECT_OK(planned);
    EXPECT_OK(ran);
  }
}

}  // namespace
}  // namespace hybridattn::testing
