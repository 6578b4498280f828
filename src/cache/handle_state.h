// What a HandleAllocator holds. Callers of these functions hold the mutex.
#pragma once

#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "hybridattn/handle_allocator.h"
#include "src/cache/id_set.h"

namespace hybridattn {

struct HandleAllocator::State {
  struct Entry {
    std::uint32_t generation = 0;
    std::int32_t references = 0;
    std::int32_t listed = 0;  // in the list that is being checked; 0 between calls
  };

  State(std::string name, std::int32_t capacity, std::int32_t first);

  bool live(const Handle& handle) const;
  Status check_live(const char* verb, const Handle& handle) const;
  /// Whether all of a list may be released: each is live, and listed no more often than it has
  /// references.
  Status check_release(std::span<const Handle> handles);
  Result<std::vector<Handle>> allocate(std::int32_t count);
  /// Of checked handles.
  void release(std::span<const Handle> handles);
  void end_group();
  Status check() const;

  std::int32_t capacity() const { return static_cast<std::int32_t>(entries.size()); }
  Entry& entry(const Handle& handle) {
    return entries[static_cast<std::size_t>(handle.index - first_id)];
  }
  const Entry& entry(const Handle& handle) const {
    return entries[static_cast<std::size_t>(handle.index - first_id)];
  }

  std::string noun;
  std::uint32_t owner = 0;
  std::int32_t first_id = 0;
  std::vector<Entry> entries;
  cache::IdSet free;                  // by place: id - first_id
  bool grouped = false;               // what is released becomes free when the group ends
  std::vector<std::int32_t> pending;  // places released in the group
  std::int64_t fail_in = 0;           // allocations until the one that fails; 0 = none
  mutable std::mutex mutex;
};

}  // namespace hybridattn
