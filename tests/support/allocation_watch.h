// Counts what the whole process takes from the heap while it looks, on any thread.
#pragma once

#include <cstdint>

namespace hybridattn::testing {

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
