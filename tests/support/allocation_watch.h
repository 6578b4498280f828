// Counts what the whole process takes from the heap while it looks, on any thread.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"

namespace hybridattn::testing {

/// Threads take from the heap when they start. Returns when all workers of the executor have, or
/// after a while where other programs keep one of them from a core.
void wait_for_workers(Executor& executor);

/// One at a time.
class AllocationWatch {
 public:
  AllocationWatch();
  ~AllocationWatch();
  AllocationWatch(const AllocationWatch&) = delete;
  AllocationWatch& operator=(const AllocationWatch&) = delete;

  /// Calls of malloc and its kin since the watch began.
  std::int64_t count() const;
};

}  // namespace hybridattn::testing
