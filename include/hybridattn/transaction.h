// Transaction: allocations and releases over several allocators that happen together or not at all.
#pragma once

#include <span>
#include <vector>

#include "hybridattn/handle_allocator.h"

namespace hybridattn {

/// What is allocated belongs to the transaction until it is committed, what is released stays live
/// until then. Without a commit the ledger of every allocator ends as it was. The allocators are
/// borrowed and must outlive the transaction. One thread at a time; other threads may use the
/// allocators meanwhile.
class HYBRIDATTN_API Transaction {
 public:
  Transaction() = default;
  /// Rolls back what was not committed.
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  /// Errors: as HandleAllocator::allocate; the transaction goes on without it.
  Result<std::vector<Handle>> allocate(HandleAllocator& allocator, std::int32_t count);
  /// Releases the handles at the commit. Errors: failed_precondition for one that is not live, or
  /// that this transaction releases more often than it has references; none is taken then.
  Status release(HandleAllocator& allocator, std::span<const Handle> handles);
  /// Makes everything so, under the locks of all allocators at once. Errors: failed_precondition
  /// when somebody else has released one of the handles meanwhile; everything is rolled back then.
  Status commit();
  /// Gives back what was allocated and forgets what was to be released.
  void rollback() noexcept;

 private:
  struct Part {
    HandleAllocator* allocator;
    std::vector<Handle> allocated;
    std::vector<Handle> released;
  };
  Part& part_of(HandleAllocator& allocator);
  std::vector<Part> parts_;
};

}  // namespace hybridattn
