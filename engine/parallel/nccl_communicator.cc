#include "engine/parallel/nccl_communicator.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::int32_t rank, std::int32_t size, const NcclLibrary& nccl,
                   NcclLibrary::Communicator handle, const std::atomic<bool>& aborted)
      : Communicator(rank, size), nccl_(nccl), handle_(handle), aborted_(aborted) {}

  NcclLibrary::Communicator handle() const { return handle_; }
  /// Whether its rank is inside of a call of NCCL.
  bool busy() const { return busy_; }

 private:
  Status do_all_reduce(Context& context, const TensorView& x) override {
    return ordered([&] {
      return nccl_.check(
          nccl_.AllReduce(x.data, x.data, static_cast<std::size_t>(x.num_elements()),
                          NcclLibrary::kFloat32, NcclLibrary::kSum, handle_, context.stream()),
          "ncclAllReduce");
    });
  }

  /// In place, row by row: a group of calls is one kernel or few.
  Status do_all_gather_columns(Context& context, const TensorView& x) override {
    return ordered([&]() -> Status {
      const std::int64_t columns = x.dim(1) / size();
      HYBRIDATTN_TRY(nccl_.check(nccl_.GroupStart(), "ncclGroupStart"));
      Status gathered;
      for (std::int64_t row = 0; gathered.ok() && row < x.dim(0); ++row) {
        float* const all = static_cast<float*>(x.data) + row * x.stride(0);
        gathered = nccl_.check(
            nccl_.AllGather(all + rank() * columns, all, static_cast<std::size_t>(columns),
                            NcclLibrary::kFloat32, handle_, context.stream()),
            "ncclAllGather");
      }
      // A group that was begun ends, whatever became of its calls.
      const Status ended = nccl_.check(nccl_.GroupEnd(), "ncclGroupEnd");
      return gathered.ok() ? ended : gathered;
    });
  }

  /// A call, unless the group was aborted: its handle is gone then.
  template <class Call>
  Status ordered(const Call& call) {
    busy_ = true;
    const Status status =
        aborted_ ? error(StatusCode::kFailedPrecondition, "ranks: another rank has failed")
                 : call();
    busy_ = false;
    return status;
  }

  const NcclLibrary& nccl_;
  NcclLibrary::Communicator handle_;
  const std::atomic<bool>& aborted_;
  std::atomic<bool> busy_{false};
};

class NcclGroup final : public CommunicatorGroup {
 public:
  NcclGroup(const NcclLibrary& nccl, std::span<const NcclLibrary::Communicator> handles)
      : nccl_(nccl) {
    const auto size = static_cast<std::int32_t>(handles.size());
    for (std::int32_t rank = 0; rank < size; ++rank) {
      ranks_.push_back(std::make_unique<NcclCommunicator>(
          rank, size, nccl_, handles[static_cast<std::size_t>(rank)], aborted_));
    }
  }
  ~NcclGroup() override {
    for (std::thread& aborter : aborters_) aborter.join();
    if (aborted_) return;
    for (const auto& rank : ranks_) (void)nccl_.CommDestroy(rank->handle());
  }

  Communicator& of(std::int32_t rank) override { return *ranks_[static_cast<std::size_t>(rank)]; }

  void abort() noexcept override {
    if (aborted_.exchange(true)) return;
    // A rank that is about to order a call has left it in no time. One that waits for the others
    // inside of NCCL leaves it by the abort alone.
    constexpr auto kPatience = std::chrono::milliseconds(200);
    const auto end = std::chrono::steady_clock::now() + kPatience;
    for (const auto& rank : ranks_) {
      while (rank->busy() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    }
    // Kernels that wait for other ranks end at once, each call when the last graph of its
    // communicator is gone: not on this thread, whose caller holds them.
    for (const auto& rank : ranks_) {
      aborters_.emplace_back([this, handle = rank->handle()] { (void)nccl_.CommAbort(handle); });
    }
  }

  Status restore() override {
    if (!aborted_) return {};
    return error(StatusCode::kFailedPrecondition,
                 "ranks: a rank has failed, and GPUs that were waiting for it do not work together "
                 "any more; load the engine again");
  }

 private:
  const NcclLibrary& nccl_;
  std::atomic<bool> aborted_{false};
  std::vector<std::unique_ptr<NcclCommunicator>> ranks_;
  std::vector<std::thread> aborters_;
};

}  // namespace

Result<std::unique_ptr<CommunicatorGroup>> make_nccl_communicators(const NcclLibrary& nccl,
                                                                   std::span<const int> devices) {
  std::vector<NcclLibrary::Communicator> handles(devices.size());
  // For all ranks at once: one that fails alone would leave the others waiting.
  HYBRIDATTN_TRY(
      nccl.check(nccl.CommInitAll(handles.data(), static_cast<int>(devices.size()), devices.data()),
                 "ncclCommInitAll"));
  return std::unique_ptr<CommunicatorGroup>(std::make_unique<NcclGroup>(nccl, handles));
}

}  // namespace hybridattn::engine
