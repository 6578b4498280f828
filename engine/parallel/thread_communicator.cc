#include "engine/parallel/thread_communicator.h"

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// What the ranks share: where each has its tensor, and a barrier.
class Meeting {
 public:
  explicit Meeting(std::int32_t size) : tensors_(static_cast<std::size_t>(size)) {}

  /// Shows the others a tensor, and returns when all have shown theirs. Errors: failed_precondition
  /// when the meeting is aborted; internal when the tensors differ in size, on every rank.
  Status come(std::int32_t rank, const TensorView& x) {
    tensors_[static_cast<std::size_t>(rank)] = x;
    HYBRIDATTN_TRY(wait());
    for (std::size_t other = 0; other < tensors_.size(); ++other) {
      if (tensors_[other].shape == x.shape) continue;
      return error(StatusCode::kInternal, "ranks: rank ", rank, " has [", x.dim(0), ", ", x.dim(1),
                   "], rank ", other, " has [", tensors_[other].dim(0), ", ",
                   tensors_[other].dim(1), "]");
    }
    return {};
  }
  const TensorView& of(std::size_t rank) const { return tensors_[rank]; }
  std::size_t size() const { return tensors_.size(); }

  /// Returns when all ranks have called it: the tensors are their own again then.
  Status wait() {
    std::unique_lock lock(mutex_);
    if (!aborted_ && ++arrived_ == tensors_.size()) {
      arrived_ = 0;
      ++round_;
      all_came_.notify_all();
      return {};
    }
    const std::uint64_t round = round_;
    all_came_.wait(lock, [&] { return aborted_ || round_ != round; });
    if (round_ != round) return {};
    return error(StatusCode::kFailedPrecondition, "ranks: another rank has failed");
  }
  void abort() {
    const std::scoped_lock lock(mutex_);
    aborted_ = true;
    all_came_.notify_all();
  }
  void restore() {
    const std::scoped_lock lock(mutex_);
    aborted_ = false;
    arrived_ = 0;
  }

 private:
  std::vector<TensorView> tensors_;
  std::mutex mutex_;
  std::condition_variable all_came_;
  std::size_t arrived_ = 0;
  std::uint64_t round_ = 0;
  bool aborted_ = false;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::int32_t rank, std::int32_t size, Meeting& meeting)
      : Communicator(rank, size), meeting_(meeting) {}

 private:
  /// Each rank sums a part of the elements, for all.
  Status do_all_reduce(Context&, const TensorView& x) override {
    HYBRIDATTN_TRY(meeting_.come(rank(), x));
    const std::int64_t begin = x.num_elements() * rank() / size();
    const std::int64_t end = x.num_elements() * (rank() + 1) / size();
    const auto data = [&](std::size_t of) { return static_cast<float*>(meeting_.of(of).data); };
    for (std::int64_t i = begin; i < end; ++i) {
      float sum = data(0)[i];
      for (std::size_t of = 1; of < meeting_.size(); ++of) sum += data(of)[i];
      for (std::size_t of = 0; of < meeting_.size(); ++of) data(of)[i] = sum;
    }
    return meeting_.wait();
  }

  Status do_all_gather_columns(Context&, const TensorView& x) override {
    HYBRIDATTN_TRY(meeting_.come(rank(), x));
    const std::int64_t columns = x.dim(1) / size();
    const auto at = [&](const TensorView& view, std::int64_t row, std::size_t of) {
      return static_cast<float*>(view.data) + row * view.stride(0) +
             static_cast<std::int64_t>(of) * columns;
    };
    for (std::size_t of = 0; of < meeting_.size(); ++of) {
      if (static_cast<std::int32_t>(of) == rank()) continue;
      for (std::int64_t row = 0; row < x.dim(0); ++row) {
        std::memcpy(at(x, row, of), at(meeting_.of(of), row, of),
                    static_cast<std::size_t>(columns) * sizeof(float));
      }
    }
    return meeting_.wait();
  }

  Meeting& meeting_;
};

class ThreadGroup final : public CommunicatorGroup {
 public:
  explicit ThreadGroup(std::int32_t size) : meeting_(size) {
    for (std::int32_t rank = 0; rank < size; ++rank) {
      ranks_.push_back(std::make_unique<ThreadCommunicator>(rank, size, meeting_));
    }
  }
  Communicator& of(std::int32_t rank) override { return *ranks_[static_cast<std::size_t>(rank)]; }
  void abort() noexcept override { meeting_.abort(); }
  Status restore() override {
    meeting_.restore();
    return {};
  }

 private:
  Meeting meeting_;
  std::vector<std::unique_ptr<ThreadCommunicator>> ranks_;
};

}  // namespace

std::unique_ptr<CommunicatorGroup> make_thread_communicators(std::int32_t size) {
  return std::make_unique<ThreadGroup>(size);
}

}  // namespace hybridattn::engine
