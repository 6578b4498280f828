// Hands out ids (pages, state slots, request rows) as handles that know their owner and generation.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hybridattn/export.h"
#include "hybridattn/status.h"

namespace hybridattn {

/// One id of one allocator, at one time of its life. A copy of a handle is the same claim, not a
/// second one.
struct Handle {
  std::int32_t index = -1;       ///< the id that kernels see
  std::uint32_t generation = 0;  ///< counts how often the id was handed out
  std::uint32_t owner = 0;       ///< the allocator

  friend bool operator==(const Handle&, const Handle&) = default;
};

/// Ids with reference counts. Every id is ordinary: none is reserved. Each call either does all it
/// was asked or changes nothing. Thread-safe.
class HYBRIDATTN_API HandleAllocator {
 public:
  /// Ids [first_id, first_id + capacity). `noun` names one in messages: "page", "state slot".
  HandleAllocator(std::string noun, std::int32_t capacity, std::int32_t first_id = 0);
  ~HandleAllocator();
  HandleAllocator(HandleAllocator&&) noexcept;
  HandleAllocator& operator=(HandleAllocator&&) noexcept;

  /// `count` free ids, each with one reference; lowest ids first.
  /// Errors: invalid_argument for a negative count; resource_exhausted with both numbers.
  Result<std::vector<Handle>> allocate(std::int32_t count);
  /// One more reference. Errors: failed_precondition for a handle that is not live.
  Status retain(const Handle& handle);
  /// One reference less; the id is free again after the last. Errors: failed_precondition for a
  /// handle that is not live (a double free, a stale handle, another allocator's).
  Status release(const Handle& handle);
  /// Releases all or none. Errors: as release; a handle may not be listed more often than it has
  /// references.
  Status release(const std::vector<Handle>& handles);
  Status release(std::span<const Handle> handles);

  /// Between the two, what is released is not live any more but can be handed out again only from
  /// the end on: a step that still reads the ids does not meet their next owner. Errors:
  /// failed_precondition for a second begin, or an end without one.
  Status free_group_begin();
  Status free_group_end();
  /// Everything is free again, and every handle stale. Ends a group.
  void clear();

  /// For tests of callers: the nth allocation from now on (1 = the next) fails once with
  /// resource_exhausted, as it would with nothing free. 0 = none.
  void fail_allocation(std::int64_t nth);

  bool live(const Handle& handle) const;
  std::int32_t references(const Handle& handle) const;
  std::int32_t capacity() const noexcept;
  std::int32_t num_free() const;
  /// Walks every invariant: each id is free once, or waits once for the end of a group, or is
  /// referenced. Errors: internal.
  Status check() const;

 private:
  friend class Transaction;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hybridattn
