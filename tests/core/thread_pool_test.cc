// The thread pool: each index exactly once, whatever the loop.
#include "src/core/thread_pool.h"

#include <atomic>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

namespace hybridattn::testing {
namespace {

using core::ThreadPool;

TEST(ThreadPool, EachIndexExactlyOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.concurrency(), threads);
    for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
      parallel_for(pool, count, [&](std::int64_t i, int) { ++hits[static_cast<std::size_t>(i)]; });
      for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, NoTwoTasksHaveOneWorkerAtATime) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> clash{false};
  parallel_for(pool, 2000, [&](std::int64_t, int worker) {
    const auto w = static_cast<std::size_t>(worker);
    if (inside.at(w).fetch_add(1) != 0) clash = true;
    inside.at(w).fetch_sub(1);
  });
  EXPECT_FALSE(clash.load());
}

TEST(ThreadPool, ANestedLoopRunsToItsEnd) {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  parallel_for(pool, 20, [&](std::int64_t, int) {
    parallel_for(pool, 10, [&](std::int64_t i, int) { sum += static_cast<int>(i); });
  });
  EXPECT_EQ(sum.load(), 20 * 45);
}

TEST(ThreadPool, ManyLoopsInARow) {
  ThreadPool pool(3);
  std::int64_t total = 0;
  for (int loop = 0; loop < 3000; ++loop) {
    std::atomic<std::int64_t> sum{0};
    parallel_for(pool, loop % 9, [&](std::int64_t i, int) { sum += i + 1; });
    const std::int64_t n = loop % 9;
    ASSERT_EQ(sum.load(), n * (n + 1) / 2);
    total += sum.load();
  }
  EXPECT_GT(total, 0);
}

TEST(ThreadPool, WhatATaskWroteIsSeenAfterTheLoop) {
  ThreadPool pool(4);
  std::vector<int> data(4096, 0);
  for (int round = 1; round <= 50; ++round) {
    parallel_for(pool, 4096,
                 [&](std::int64_t i, int) { data[static_cast<std::size_t>(i)] = round; });
    for (const int value : data) ASSERT_EQ(value, round);
  }
}

TEST(ThreadPool, DestructsUsedAndUnused) {
  for (int i = 0; i < 30; ++i) {
    auto pool = std::make_unique<ThreadPool>(1 + i % 4);
    if (i % 2 == 0) parallel_for(*pool, 5, [](std::int64_t, int) {});
    pool.reset();
  }
}

}  // namespace
}  // namespace hybridattn::testing
