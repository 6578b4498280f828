// Graph and GraphRunner: recorded steps, replayed for other rows.
#include "hybridattn/graph_runner.h"

#include <cmath>

#include "src/core/recorder.h"
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode, kPad = RowKind::kPad;

/// The hybrid world's step as one graph of `shape`.
struct Recorded {
  explicit Recorded(HybridWorld& world, const GraphShape& shape) {
    auto made_plan = world.backend->plan_graph(shape);
    EXPECT_TRUE(made_plan.ok()) << made_plan.status().message();
    plan = std::move(*made_plan);
    auto made = Graph::record(*world.context, [&] { return world.run(*plan); });
    EXPECT_TRUE(made.ok()) << made.status().message();
    graph = std::move(*made);
  }
  std::shared_ptr<Plan> plan;
  std::unique_ptr<Graph> graph;
};

ForwardBatch batch_of(std::vector<BatchRow> rows) {
  auto made = ForwardBatch::create(std::move(rows));
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(*made);
}

TEST(GraphTest, RecordingRunsNothing) {
  HybridWorld world;
  const Recorded recorded(world, {0, 2, 0, 2, 8});
  EXPECT_GT(recorded.graph->num_calls(), 15u);
  for (std::int32_t slot = 0; slot < 8; ++slot) {
    for (const Byte b : world.slot_bytes(slot)) ASSERT_EQ(b, Byte{0xff});
  }
  for (const double value : world.output(0)) ASSERT_TRUE(std::isnan(value));
}

TEST(GraphTest, ReplayWithoutTheStepsPlanIsRefused) {
  HybridWorld world;
  const Recorded recorded(world, {0, 2, 0, 2, 8});
  EXPECT_ERROR(recorded.graph->replay(), kFailedPrecondition, "not rewritten", "replan");
  const ForwardBatch batch = batch_of({{kDecode, 1, {0}, 0, 1}});
  world.feed(1, 0, 0);
  ASSERT_OK(world.backend->replan(*recorded.plan, batch));
  ASSERT_OK(recorded.graph->replay());
  EXPECT_ERROR(recorded.graph->replay(), kFailedPrecondition, "replay 1");
  EXPECT_EQ(recorded.graph->num_replays(), 1u);
}

TEST(GraphTest, PlansOfSingleStepsCannotBeRecorded) {
  HybridWorld world;
  const ForwardBatch batch = batch_of({{kDecode, 1, {0}, 0, 1}});
  auto plan = world.backend->plan(batch);
  ASSERT_TRUE(plan.ok());
  EXPECT_ERROR(Graph::record(*world.context, [&] { return world.run(**plan); }).status(),
               kFailedPrecondition, "plan_graph");
  EXPECT_ERROR(world.backend->replan(**plan, batch), kFailedPrecondition, "single step");
  world.feed(1, 0, 0);
  EXPECT_OK(world.run(**plan));  // the context is out of recording again
}

TEST(GraphTest, NestedRecordingAndErrorsOfTheFunction) {
  HybridWorld world;
  Status inner;
  const auto outer = Graph::record(*world.context, [&] {
    inner = Graph::record(*world.context, [] { return Status(); }).status();
    return invalid_argument("the function's own");
  });
  EXPECT_ERROR(inner, kFailedPrecondition, "already");
  EXPECT_ERROR(outer.status(), kInvalidArgument, "the function's own");
  EXPECT_THROW(static_cast<void>(Graph::record(*world.context, []() -> Status { throw 1; })), int);
  EXPECT_TRUE(Graph::record(*world.context, [] { return Status(); }).ok());
}

TEST(GraphTest, FunctionsOfTheCallerRunInOrder) {
  if (test_device() != DeviceType::kCpu) GTEST_SKIP() << "on CUDA the stream is captured";
  HybridWorld world;
  std::vector<int> order;
  Status answer;
  const auto call = [&](int i) {
    return run_or_record(*world.context, "mine", [&order, &answer, i] {
      order.push_back(i);
      return i == 2 ? answer : Status();
    });
  };
  EXPECT_OK(call(7));
  EXPECT_EQ(order, std::vector<int>{7}) << "at once, outside of a graph";
  auto graph = Graph::record(*world.context, [&] {
    for (const int i : {1, 2, 3}) EXPECT_OK(call(i));
    return Status();
  });
  ASSERT_TRUE(graph.ok());
  EXPECT_EQ(order.size(), 1u);
  EXPECT_OK((*graph)->replay());
  EXPECT_EQ(order, (std::vector<int>{7, 1, 2, 3}));
  answer = invalid_argument("enough");
  EXPECT_ERROR((*graph)->replay(), kInvalidArgument, "enough");
  EXPECT_EQ(order, (std::vector<int>{7, 1, 2, 3, 1, 2}));
}

TEST(GraphTest, WhatDoesNotFitIsRefusedAndThePlanStays) {
  HybridWorld world;
  const Recorded recorded(world, {1, 1, 0, 6, 4});
  const std::uint64_t version = recorded.plan->version();
  const auto refused = [&](std::vector<BatchRow> rows, const std::string& what,
                           const std::string& most) {
    const ForwardBatch batch = batch_of(std::move(rows));
    EXPECT_ERROR(world.backend->replan(*recorded.plan, batch), kOutOfRange, what, most);
  };
  refused({{kDecode, 0, {0}, 0, 1}, {kDecode, 1, {1}, 0, 1}}, "2 decode rows", "at most 1");
  refused({{kPrefill, 0, {0}, 0, 1}, {kPrefill, 1, {1}, 0, 1}}, "2 prefill rows", "at most 1");
  refused({{kPrefill, 0, {0, 1}, 0, 7}}, "7 tokens", "at most 6");
  refused({{kPrefill, 0, {0, 1, 2, 3, 4}, 0, 6}}, "5 pages", "at most 4");
  refused({{kPrefill, 99, {0, 1}, 0, 6}}, "slot 99", "[0, 8)");
  refused({{kPrefill, 0, {0, 99}, 0, 6}}, "page id 99", "[0, 64)");
  EXPECT_EQ(recorded.plan->version(), version);
  EXPECT_ERROR(recorded.graph->replay(), kFailedPrecondition, "not rewritten");
  EXPECT_ERROR(world.backend->plan_graph({0, 2, 0, 1, 4}).status(), kInvalidArgument, "1 tokens",
               "2 decode rows");
  EXPECT_ERROR(world.backend->plan_graph({0, -1, 0, 1, 4}).status(), kInvalidArgument,
               "decode_rows -1");
}

/// A backend whose upload can fail.
class Uploader final : public AttentionBackend {
 public:
  explicit Uploader(Context& context) : context_(context) {}
  std::string_view name() const noexcept override { return "Uploader"; }
  Context& context() noexcept override { return context_; }
  Status reserve(std::int32_t) override { return {}; }
  Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) override {
    struct Made final : Plan {
      Made(std::uint64_t backend, const GraphShape& room, bool held) : Plan(backend, room, held) {}
    };
    return std::shared_ptr<Plan>(std::make_shared<Made>(id(), shape, recordable));
  }
  Status check_rows(std::span<const RowView>) override { return {}; }
  Status write_rows(Plan& plan, std::span<const RowView>) override {
    if (fails) return Status(StatusCode::kDeviceError, "the upload failed");
    plan.set_written();
    return {};
  }
  Status run_attention(const Plan& plan, const RadixAttention&, const AttentionRunArgs&) override {
    if (const Status status = check_plan(plan); !status.ok()) return status;
    return core::hold_if_recording(context_, name(), plan);
  }

  bool fails = false;

 private:
  Context& context_;
};

TEST(GraphTest, APlanWhoseRewriteFailedHalfwayDoesNotRun) {
  const auto context = make_context();
  auto first = std::make_unique<Uploader>(*context), second = std::make_unique<Uploader>(*context);
  Uploader& failing = *second;
  const auto backend = *HybridAttnBackend::create(std::move(first), std::move(second), {2});
  RadixAttention layer;
  layer.layer_id = 2;
  const auto plan = *backend->plan_graph({0, 1, 0, 1, 1});
  const auto run = [&] { return backend->run_attention(*plan, layer, {}); };
  const auto graph = *Graph::record(*context, run);
  const ForwardBatch batch = batch_of({{kDecode, 0, {0}, 0, 1}});
  ASSERT_OK(backend->replan(*plan, batch));
  // The first of the two is rewritten, the second is not.
  failing.fails = true;
  EXPECT_ERROR(backend->replan(*plan, batch), kDeviceError, "the upload failed");
  EXPECT_ERROR(run(), kFailedPrecondition, "its last replan failed");
  EXPECT_ERROR(graph->replay(), kFailedPrecondition, "its last replan failed");
  failing.fails = false;
  ASSERT_OK(backend->replan(*plan, batch));
  EXPECT_OK(run());
  EXPECT_OK(graph->replay());
}

TEST(GraphTest, TheWorkspaceIsTheGraphs) {
  if (test_device() != DeviceType::kCpu) GTEST_SKIP() << "on CUDA it is the context's";
  CountingAllocator memory;
  WorldOptions options;
  options.allocator = &memory;
  {
    HybridWorld world(options);
    const std::size_t before = memory.held;
    {
      const Recorded recorded(world, {1, 4, 0, 32, 16});
      EXPECT_GE(memory.held, before + recorded.graph->workspace_bytes());
      EXPECT_GT(recorded.graph->workspace_bytes(), 0u);
    }
    const Recorded again(world, {1, 4, 0, 32, 16});
    memory.fail = true;
    EXPECT_ERROR(Graph::record(*world.context, [&] { return world.run(*again.plan); }).status(),
                 kResourceExhausted, "the allocator gave no");
    memory.fail = false;
  }
  EXPECT_EQ(memory.held, 0u);
}

TEST(GraphRunnerTest, DecodeMixedAndPrefillStepsAsAlone) {
  for (const Isa isa : supported_isas()) {
    WorldOptions options;
    options.isa = isa;
    options.threads = isa == best_isa() ? 2 : 1;
    HybridService service(options);
    service.record({{0, 2, 0, 2, 32}, {0, 4, 0, 4, 64}, {2, 3, 0, 40, 64}});
    service.admit(1, 3, {0, 1, 2, 3, 4, 5, 6, 7, 8});
    service.admit(2, 0, {9, 11, 10, 12, 20, 21});
    service.admit(3, 7, {13, 14, 15, 16});
    service.step({{1, kPrefill, 5}});
    service.expect_zeros(5, 40);
    service.step({{2, kPrefill, 9}, {1, kDecode, 1}});
    service.step({{1, kDecode, 1}, {3, kPrefill, 3}, {2, kDecode, 1}});
    service.step({{3, kDecode, 1}, {1, kDecode, 1}, {2, kDecode, 1}});
    service.expect_zeros(3, 4);
    service.step({{2, kDecode, 1}, {0, kPad, 1}, {1, kDecode, 1}});
    service.expect_zeros(3, 4);
    service.step({{0, kPad, 3}, {1, kPrefill, 18}, {0, kPad, 1}, {2, kDecode, 1}});
    service.step({{1, kDecode, 1}});
    service.step({{0, kPad, 1}});
    service.step({});
    EXPECT_EQ(service.replays, 9);
  }
}

TEST(GraphRunnerTest, BatchesThatNoSizeHoldsAreRefused) {
  HybridService service;
  service.record({{0, 2, 0, 2, 8}});
  service.admit(1, 3, {0, 1, 2});
  const auto batch = service.batch_of({{1, kPrefill, 5}});
  ASSERT_TRUE(batch.ok());
  EXPECT_FALSE(service.runner->can_run(*batch));
  EXPECT_ERROR(service.runner->run(*batch).status(), kOutOfRange, "no size holds", "5 tokens");
}

TEST(GraphRunnerTest, BucketsGrowAsEnginesCaptureThem) {
  std::vector<std::int32_t> rows;
  for (const GraphShape& shape : decode_buckets(300, 2)) {
    rows.push_back(shape.decode_rows);
    EXPECT_EQ(shape.tokens, shape.decode_rows);
    EXPECT_EQ(shape.pages, 2 * shape.decode_rows);
  }
  EXPECT_EQ(std::vector<std::int32_t>(rows.begin(), rows.begin() + 6),
            (std::vector<std::int32_t>{1, 2, 4, 8, 16, 24}));
  EXPECT_EQ(std::vector<std::int32_t>(rows.end() - 4, rows.end()),
            (std::vector<std::int32_t>{256, 272, 288, 300}));
  EXPECT_TRUE(decode_buckets(0, 1).empty());
}

}  // namespace
}  // namespace hybridattn::testing
