// What a traced context keeps: its place in the trace, and an executor that counts workers.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "hybridattn/context.h"
#include "hybridattn/trace.h"

namespace hybridattn::core {

/// Stands before the context's executor, so that every parallel loop goes through it, and notes the
/// most workers that took part in one loop. Loops from inside a task are their task's business and
/// are passed on uncounted.
class CountingExecutor final : public Executor {
 public:
  explicit CountingExecutor(Executor& inner);

  int concurrency() const noexcept override { return inner_.concurrency(); }
  void run(std::int64_t count, Task task, void* argument) override;

  std::int32_t most_workers = 1;

 private:
  struct Loop;
  static void run_counted(void* loop, std::int64_t index, int worker);

  Executor& inner_;
  std::uint64_t loops_ = 0;
  std::vector<std::atomic<std::uint64_t>> last_loop_;  // [workers] that each took part in
};

/// One context's half of a trace.
class Tracer {
 public:
  Tracer(Trace& trace, Executor& executor);

  Executor& executor() noexcept { return executor_; }

  struct Mark {
    std::int64_t start_ns;
    std::int32_t outer_workers;
  };
  Mark begin() noexcept;
  void end(std::string_view name, const Mark& mark) noexcept;

 private:
  Trace& trace_;
  CountingExecutor executor_;
  std::int32_t context_;
  std::int32_t depth_ = 0;
};

}  // namespace hybridattn::core
