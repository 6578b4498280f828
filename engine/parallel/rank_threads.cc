#include "engine/parallel/rank_threads.h"

namespace hybridattn::engine {

namespace {

/// Waits while `value` is `old`: runs follow each other closely in a step, so it looks for a while
/// before it sleeps.
void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  constexpr int kLooks = 64;
  for (int look = 0; look < kLooks && value == old; ++look) std::this_thread::yield();
  value.wait(old);
}

}  // namespace

RankThreads::RankThreads(std::int32_t size, OnFailure on_failure)
    : on_failure_(std::move(on_failure)) {
  for (std::int32_t rank = 1; rank < size; ++rank) {
    threads_.emplace_back([this, rank] { serve(rank); });
  }
}

RankThreads::~RankThreads() {
  stop_ = true;
  ++round_;
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void RankThreads::serve(std::int32_t rank) {
  // Threads start before the first run, so none can miss it.
  for (std::uint32_t seen = 0;; ++seen) {
    wait_while(round_, seen);
    if (stop_) return;
    call(rank);
    if (left_.fetch_sub(1) == 1) left_.notify_one();
  }
}

Status RankThreads::run_all(const Body& body) {
  body_ = &body;
  failure_ = Status();
  thrown_ = nullptr;
  left_ = static_cast<std::uint32_t>(threads_.size());
  ++round_;
  round_.notify_all();
  call(0);
  for (std::uint32_t left = left_; left != 0; left = left_) wait_while(left_, left);
  if (thrown_ != nullptr) std::rethrow_exception(thrown_);
  return failure_;
}

void RankThreads::call(std::int32_t rank) noexcept {
  try {
    const Status status = (*body_)(rank);
    if (status.ok()) return;
    fail(error(status.code(), "rank ", rank, ": ", status.message()), nullptr);
  } catch (...) {
    fail(Status(StatusCode::kInternal, ""), std::current_exception());
  }
}

void RankThreads::fail(Status status, std::exception_ptr thrown) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = std::move(status);
    thrown_ = std::move(thrown);
  }
  on_failure_();
}

}  // namespace hybridattn::engine
