// The context's own pool of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "hybridattn/context.h"

namespace hybridattn::core {

/// A fork-join pool: the calling thread is worker 0 and takes part in each loop. Workers spin for a
/// short while after a loop, since the next one follows within microseconds in a forward pass, then
/// sleep. A loop waits only for workers that have joined it: one that has no core yet is not
/// missed, so that a busy machine costs its share and no more. One loop at a time; a loop started
/// from inside a task runs serially in that task.
class ThreadPool final : public Executor {
 public:
  /// `threads` >= 1, the caller counted in.
  explicit ThreadPool(int threads);
  ~ThreadPool() override;

  int concurrency() const noexcept override { return static_cast<int>(threads_.size()) + 1; }
  void run(std::int64_t count, Task task, void* argument) override;

 private:
  void work(int worker);
  void take_tasks(int worker);
  std::uint32_t wait_for_loop(std::uint32_t seen, bool& slept);
  bool join(std::uint32_t loop);
  void close_and_wait();
  void leave_shared_core(int worker);

  std::vector<std::thread> threads_;
  std::vector<int> cpus_;                // allowed ones
  std::vector<std::atomic<int>> place_;  // [workers] the core each was last seen on
  Task task_ = nullptr;
  void* argument_ = nullptr;
  std::int64_t count_ = 0;
  alignas(64) std::atomic<std::int64_t> next_{0};
  alignas(64) std::atomic<std::uint32_t> loop_{0};  // number of the last loop; workers sleep on it
  /// Number of the loop, a bit that says it may be joined, the count of workers inside.
  alignas(64) std::atomic<std::uint64_t> gate_{0};
  std::atomic<bool> stop_{false};
};

/// The processors that this process may run on, at least one.
std::vector<int> allowed_cpus();

}  // namespace hybridattn::core
