// RankThreads: a thread for each rank but the first, which is the caller's.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "hybridattn/status.h"

namespace hybridattn::engine {

/// Runs the same function for all ranks at once. Each rank has its own thread for life, since
/// contexts and libraries keep things by thread.
class RankThreads {
 public:
  using Body = std::function<Status(std::int32_t rank)>;
  /// Called once, by the first rank that fails in a run, before it is waited for: ends what the
  /// others wait for.
  using OnFailure = std::function<void()>;

  /// `size` >= 1 ranks.
  RankThreads(std::int32_t size, OnFailure on_failure);
  ~RankThreads();
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;

  std::int32_t size() const noexcept { return static_cast<std::int32_t>(threads_.size()) + 1; }
  /// body(rank) for each rank, rank 0 on the calling thread; returns when all have. Errors: that of
  /// the rank that failed first, which is named; what it threw is thrown here. From one thread at a
  /// time.
  template <class F>
  Status run(const F& body) {
    return threads_.empty() ? body(0) : run_all(std::cref(body));
  }

 private:
  Status run_all(const Body& body);
  void serve(std::int32_t rank);
  void call(std::int32_t rank) noexcept;
  void fail(Status status, std::exception_ptr thrown) noexcept;

  OnFailure on_failure_;
  std::vector<std::thread> threads_;
  const Body* body_ = nullptr;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<std::uint32_t> left_{0};  // ranks that have not ended the round
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  Status failure_;  // of the first that failed
  std::exception_ptr thrown_;
};

}  // namespace hybridattn::engine
