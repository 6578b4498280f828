// Communicator: how the ranks of one model put together what each has computed.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// One rank's end. Its calls are made by all ranks in one order, each on its own thread and
/// context; they are ordered with the context's ops and can be recorded. Not thread-safe.
class Communicator {
 public:
  Communicator(std::int32_t rank, std::int32_t size) : rank_(rank), size_(size) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  std::int32_t rank() const noexcept { return rank_; }
  std::int32_t size() const noexcept { return size_; }

  /// x [M, N] f32, dense, in the context's memory, becomes the sum over all ranks: the same bits on
  /// each. Errors: invalid_argument; failed_precondition where another rank has failed;
  /// device_error.
  Status all_reduce(Context& context, const TensorView& x);
  /// x [M, N] f32 of any row stride, size() divides N: rank r has columns [r N / size(),
  /// (r + 1) N / size()), and all ranks get all of them. Errors: the same.
  Status all_gather_columns(Context& context, const TensorView& x);

 private:
  virtual Status do_all_reduce(Context& context, const TensorView& x) = 0;
  virtual Status do_all_gather_columns(Context& context, const TensorView& x) = 0;

  std::int32_t rank_, size_;
};

/// The ends of all ranks, which live in one process. Owns them.
class CommunicatorGroup {
 public:
  virtual ~CommunicatorGroup() = default;
  virtual Communicator& of(std::int32_t rank) = 0;
  /// Ends the calls that wait for a rank which will not come, with errors, and those to come until
  /// `restore`. Thread-safe.
  virtual void abort() noexcept = 0;
  /// Makes calls possible again, once no rank is in one. Errors: failed_precondition where what was
  /// aborted cannot be used again.
  virtual Status restore() = 0;
};

}  // namespace hybridattn::engine
