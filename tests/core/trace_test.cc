// Trace: which events eager steps, replays and spans leave, and what the ring does when it is full.
#include "hybridattn/trace.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "hybridattn/graph.h"
#include "tests/support/allocation_watch.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;
using Counts = std::map<std::string, std::int64_t>;

std::unique_ptr<Trace> make_trace(std::size_t capacity = 10000) {
  auto trace = Trace::create(capacity);
  EXPECT_TRUE(trace.ok()) << trace.status().message();
  return std::move(*trace);
}

WorldOptions traced(Trace* trace, int threads = 1) {
  WorldOptions options;
  options.threads = threads;
  options.trace = trace;
  return options;
}

Counts counts_of(const Trace& trace) {
  Counts counts;
  for (const TraceSummary& row : trace.summary()) counts[row.name] = row.calls;
  return counts;
}

std::vector<std::string> names_of(const Trace& trace) {
  std::vector<std::string> names;
  for (const TraceEvent& event : trace.events()) names.emplace_back(event.name);
  return names;
}

ForwardBatch mixed_batch() {
  return *ForwardBatch::create({{kDecode, 1, {0}, 0, 1}, {kPrefill, 2, {1, 2}, 0, 5}});
}

void feed_all(HybridWorld& world, std::int32_t tokens) {
  for (std::int32_t t = 0; t < tokens; ++t) world.feed(1, t, t);
}

// Of the world's three GDN layers and two attention layers.
const Counts kEachOp{{"causal_conv", 3},    {"gdn_gates", 3}, {"gdn_step", 3}, {"gdn_prefill", 3},
                     {"gated_rms_norm", 3}, {"store_kv", 2},  {"attention", 2}};

TEST(TraceTest, AnEagerStepLeavesOneEventForEachOp) {
  const auto trace = make_trace();
  HybridWorld world(traced(trace.get(), 2));
  const auto plan = *world.backend->plan(mixed_batch());
  feed_all(world, 6);
  EXPECT_EQ(trace->size(), 0u) << "planning launches nothing";
  const std::int64_t before = trace->now();
  ASSERT_OK(world.run(*plan));
  const std::int64_t after = trace->now();
  EXPECT_EQ(counts_of(*trace), kEachOp);
  std::int64_t last_end = before;
  for (const TraceEvent& event : trace->events()) {
    EXPECT_GE(event.start_ns, last_end) << event.name;
    EXPECT_GE(event.duration_ns, 0) << event.name;
    EXPECT_EQ(event.depth, 0);
    EXPECT_EQ(event.context, 0);
    EXPECT_GE(event.workers, 1);
    EXPECT_LE(event.workers, 2);
    last_end = event.start_ns + event.duration_ns;
  }
  EXPECT_LE(last_end, after);
}

TEST(TraceTest, AReplayLeavesOneEventForEachRecordedCall) {
  const auto trace = make_trace();
  HybridWorld world(traced(trace.get()));
  const auto plan = *world.backend->plan_graph({1, 2, 0, 8, 8});
  auto graph = Graph::record(*world.context, [&] {
    const Status ran = world.run(*plan);
    return ran.ok() ? run_or_record(*world.context, "mine", [] { return Status(); }) : ran;
  });
  ASSERT_TRUE(graph.ok()) << graph.status().message();
  EXPECT_EQ(trace->size(), 0u) << "recording runs nothing";
  feed_all(world, 6);
  std::vector<std::string> first;
  for (const int replay : {1, 2}) {
    trace->clear();
    ASSERT_OK(world.backend->replan(*plan, mixed_batch()));
    ASSERT_OK((*graph)->replay());
    Counts wanted = kEachOp;
    wanted["mine"] = 1;
    EXPECT_EQ(counts_of(*trace), wanted) << "replay " << replay;
    EXPECT_EQ(trace->size(), (*graph)->num_calls());
    if (replay == 1) first = names_of(*trace);
    EXPECT_EQ(names_of(*trace), first);
  }
  ASSERT_FALSE(first.empty());
  EXPECT_EQ(first.front(), "causal_conv");
  EXPECT_EQ(first.back(), "mine");
}

TEST(TraceTest, OtherContextsLeaveNothingAndTracesDoNotChangeResults) {
  const auto trace = make_trace();
  std::vector<std::vector<double>> outputs;
  for (Trace* given : {trace.get(), static_cast<Trace*>(nullptr)}) {
    HybridWorld world(traced(given, 2));
    const auto plan = *world.backend->plan(mixed_batch());
    feed_all(world, 6);
    trace->clear();
    ASSERT_OK(world.run(*plan));
    EXPECT_EQ(trace->size() > 0, given != nullptr);
    outputs.push_back(world.output(5));
  }
  EXPECT_EQ(outputs[0], outputs[1]);
}

TEST(TraceTest, RecordingTakesNothingFromTheHeap) {
  const auto trace = make_trace(16);  // it overflows within a step
  for (Trace* given : {static_cast<Trace*>(nullptr), trace.get()}) {
    HybridWorld world(traced(given, 2));
    wait_for_workers(world.context->executor());
    const auto plan = *world.backend->plan(mixed_batch());
    const auto graph_plan = *world.backend->plan_graph({1, 2, 0, 8, 8});
    const auto graph =
        std::move(*Graph::record(*world.context, [&] { return world.run(*graph_plan); }));
    feed_all(world, 6);
    ASSERT_OK(world.backend->replan(*graph_plan, mixed_batch()));
    const AllocationWatch watch;
    const Status ran = world.run(*plan);
    const Status replayed = graph->replay();
    EXPECT_EQ(watch.count(), 0);
    ASSERT_OK(ran);
    ASSERT_OK(replayed);
  }
  EXPECT_GT(trace->dropped(), 0u);
}

TEST(TraceTest, AFullRingKeepsTheLastEventsAndCountsTheOthers) {
  const auto trace = make_trace(4);
  EXPECT_EQ(trace->capacity(), 4u);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(trace->dropped(), static_cast<std::uint64_t>(std::max(0, i - 4)));
    TraceEvent event;
    event.name[0] = static_cast<char>('a' + i);
    event.duration_ns = i;
    trace->record(event);
  }
  EXPECT_EQ(names_of(*trace), (std::vector<std::string>{"g", "h", "i", "j"}));
  EXPECT_EQ(trace->size(), 4u);
  EXPECT_EQ(trace->dropped(), 6u);
  const auto rows = trace->summary();
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].name, "j");
  EXPECT_DOUBLE_EQ(rows[0].share, 9.0 / 30);
  trace->clear();
  EXPECT_EQ(trace->size(), 0u);
  EXPECT_EQ(trace->dropped(), 0u);
}

/// Gives task i to worker i modulo its count, one after the other.
class RoundRobin final : public Executor {
 public:
  int concurrency() const noexcept override { return 3; }
  void run(std::int64_t count, Task task, void* argument) override {
    for (std::int64_t i = 0; i < count; ++i) task(argument, i, static_cast<int>(i % 3));
  }
};

TEST(TraceTest, SpansNestAndKnowTheirWorkers) {
  const auto trace = make_trace();
  RoundRobin executor;
  ContextOptions options;
  options.trace = trace.get();
  options.executor = &executor;
  const auto context = std::move(*Context::create(options));
  const auto loop = [&](std::int64_t count) {
    parallel_for(context->executor(), count, [&](std::int64_t, int) {
      // A loop inside of a task is the task's own.
      parallel_for(context->executor(), 3, [](std::int64_t, int) {});
    });
  };
  {
    const TraceSpan outer(*context, "outer, whose name is longer than the events' room for names");
    { const TraceSpan none(*context, "none"); }
    {
      const TraceSpan inner(*context, "inner");
      loop(7);
      loop(1);
    }
    loop(2);
  }
  {
    const TraceSpan two(*context, "two");
    loop(2);
  }
  const std::vector<TraceEvent> events = trace->events();
  ASSERT_EQ(events.size(), 4u);
  const auto is = [](const TraceEvent& e, const std::string& name, int depth, int workers) {
    EXPECT_EQ(e.name, name);
    EXPECT_EQ(e.depth, depth) << name;
    EXPECT_EQ(e.workers, workers) << name;
  };
  is(events[0], "none", 1, 1);
  is(events[1], "inner", 1, 3);
  is(events[2], "outer, whose name is longer than th", 0, 3);
  is(events[3], "two", 0, 2);
  EXPECT_LE(events[2].start_ns, events[1].start_ns);
  EXPECT_GE(events[2].duration_ns, events[1].duration_ns);
}

TEST(TraceTest, EachContextHasItsTrack) {
  const auto trace = make_trace();
  const auto a = make_context(best_isa(), 1, nullptr, trace.get());
  const auto b = make_context(best_isa(), 1, nullptr, trace.get());
  { const TraceSpan span(*b, "b"); }
  { const TraceSpan span(*a, "a"); }
  const std::vector<TraceEvent> events = trace->events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].context, 1);
  EXPECT_EQ(events[1].context, 0);
}

TEST(TraceTest, CapacitiesThatCannotBe) {
  EXPECT_ERROR(Trace::create(0).status(), kInvalidArgument, "capacity is 0", "268435456");
  EXPECT_ERROR(Trace::create((std::size_t{1} << 28) + 1).status(), kInvalidArgument, "268435457");
}

}  // namespace
}  // namespace hybridattn::testing
