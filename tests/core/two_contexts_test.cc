// Two contexts at work in two threads share nothing: each gives the bits that it gives alone. What
// they may share, a HandleAllocator and a Trace, stays in order. Made to be run under
// ThreadSanitizer too.
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "hybridattn/graph_runner.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;
constexpr int kRounds = 12;

/// Prefills and decodes two requests, every second round by replay, on a pool of `threads` threads.
/// Returns all outputs and the states at the end.
struct Work {
  explicit Work(std::uint64_t first_request, int threads, Trace* trace = nullptr)
      : request(first_request), world(options(threads, trace)) {
    auto made = GraphRunner::create(*world.context, *world.backend, {{1, 2, 0, 12, 24}},
                                    [this](const Plan& plan) { return world.run(plan); });
    EXPECT_TRUE(made.ok()) << made.status().message();
    runner = std::move(*made);
  }
  static WorldOptions options(int threads, Trace* trace) {
    WorldOptions o;
    o.threads = threads;
    o.trace = trace;
    return o;
  }

  /// Rows of 7 prompt tokens or 1 decoded one, at `computed` tokens each.
  std::vector<BatchRow> rows(int round) const {
    const std::int64_t done = round == 0 ? 0 : 6 + round;
    BatchRow a{kDecode, 1, {0, 1, 2, 3, 4, 5}, done, 1};
    if (round == 0) a = {kPrefill, 1, a.pages, 0, 7};
    return {a, {kDecode, 4, {6, 7, 8, 9}, round, 1}};
  }
  void step(int round) {
    const auto batch = ForwardBatch::create(rows(round));
    ASSERT_TRUE(batch.ok()) << batch.status().message();
    world.poison_tokens();
    std::int32_t token = 0;
    for (std::size_t r = 0; r < 2; ++r) {
      const BatchRow& row = batch->rows()[r];
      for (std::int32_t i = 0; i < row.new_tokens; ++i) {
        world.feed(request + r, row.computed + i, token++);
      }
    }
    if (round % 2 == 1) {
      const auto replayed = runner->run(*batch);
      ASSERT_TRUE(replayed.ok()) << replayed.status().message();
    } else {
      const auto plan = world.backend->plan(*batch);
      ASSERT_TRUE(plan.ok()) << plan.status().message();
      ASSERT_OK(world.run(**plan));
    }
    for (std::int32_t t = 0; t < token; ++t) outputs.push_back(world.output(t));
  }
  void run() {
    for (int round = 0; round < kRounds; ++round) step(round);
    for (const std::int32_t slot : {1, 4}) states.push_back(world.slot_bytes(slot));
  }

  std::uint64_t request;
  HybridWorld world;
  std::unique_ptr<GraphRunner> runner;
  std::vector<std::vector<double>> outputs;
  std::vector<std::vector<Byte>> states;
};

/// Runs fn(0) and fn(1) in two threads that begin together.
template <class Fn>
void together(const Fn& fn) {
  std::atomic<int> ready{0};
  std::array<std::thread, 2> threads;
  for (int i = 0; i < 2; ++i) {
    threads[static_cast<std::size_t>(i)] = std::thread([&, i] {
      ++ready;
      while (ready.load() < 2) std::this_thread::yield();
      fn(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TwoContexts, EachGivesTheBitsItGivesAlone) {
  Work alone[2] = {Work(1, 2), Work(7, 2)};
  for (Work& work : alone) work.run();
  Work both[2] = {Work(1, 2), Work(7, 2)};
  together([&](int i) { both[i].run(); });
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(both[i].outputs.size(), static_cast<std::size_t>(7 + 2 * kRounds - 1));
    EXPECT_EQ(both[i].outputs, alone[i].outputs) << "context " << i;
    EXPECT_EQ(both[i].states, alone[i].states) << "context " << i;
  }
}

TEST(TwoContexts, TheyMayBeMadeAndDestroyedInDifferentThreads) {
  Work alone(3, 2);
  alone.run();
  std::array<std::vector<std::vector<double>>, 2> outputs;
  together([&](int i) {
    Work work(3, 2);
    work.run();
    outputs[static_cast<std::size_t>(i)] = work.outputs;
  });
  EXPECT_EQ(outputs[0], alone.outputs);
  EXPECT_EQ(outputs[1], alone.outputs);
}

TEST(TwoContexts, OneTraceForBothLosesNothing) {
  auto trace = std::move(*Trace::create(100000));
  Work both[2] = {Work(1, 2, trace.get()), Work(7, 2, trace.get())};
  together([&](int i) { both[i].run(); });
  std::array<std::int64_t, 2> events{};
  for (const TraceEvent& event : trace->events()) {
    ++events.at(static_cast<std::size_t>(event.context));
  }
  EXPECT_GT(events[0], 0);
  EXPECT_EQ(events[0], events[1]);
}

TEST(TwoContexts, OneAllocatorForBothHandsOutEachIdOnce) {
  HandleAllocator ids("id", 64);
  std::array<std::atomic<int>, 64> holders{};
  std::atomic<bool> wrong{false};
  together([&](int i) {
    std::vector<Handle> held;
    const auto give_back = [&] {
      for (const Handle& h : held) {
        if (!ids.retain(h).ok() || !ids.release(h).ok() || !ids.live(h)) wrong = true;
        holders.at(static_cast<std::size_t>(h.index)).fetch_sub(1);
      }
      if (!ids.release(held).ok()) wrong = true;
      held.clear();
    };
    for (int round = 0; round < 2000; ++round) {
      if (const auto got = ids.allocate(1 + (round + i) % 5); got.ok()) {
        for (const Handle& h : *got) {
          if (holders.at(static_cast<std::size_t>(h.index)).fetch_add(1) != 0) wrong = true;
          held.push_back(h);
        }
      }
      if (held.size() >= 8 || round % 3 == 0) give_back();
      if (round % 100 == 0 && !ids.check().ok()) wrong = true;
    }
    give_back();
  });
  EXPECT_FALSE(wrong.load());
  EXPECT_OK(ids.check());
  EXPECT_EQ(ids.num_free(), 64);
}

}  // namespace
}  // namespace hybridattn::testing
