#include "hybridattn/handle_allocator.h"

#include <atomic>
#include <mutex>
#include <set>

#include "hybridattn/status_macros.h"

namespace hybridattn {

struct HandleAllocator::State {
  struct Entry {
    std::uint32_t generation = 0;
    std::int32_t references = 0;
  };

  bool live(const Handle& handle) const {
    if (handle.owner != owner || handle.index < 0) return false;
    const auto index = static_cast<std::size_t>(handle.index);
    return index < entries.size() && entries[index].generation == handle.generation &&
           entries[index].references > 0;
  }
  Entry& entry(const Handle& handle) { return entries[static_cast<std::size_t>(handle.index)]; }

  Status check_live(const char* verb, const Handle& handle) const {
    if (live(handle)) return {};
    if (handle.owner != owner) {
      return error(StatusCode::kFailedPrecondition, verb, ": ", noun, " ", handle.index,
                   " belongs to allocator ", handle.owner, ", this is allocator ", owner);
    }
    return error(StatusCode::kFailedPrecondition, verb, ": ", noun, " ", handle.index,
                 " of generation ", handle.generation, " is not live (freed before?)");
  }

  void drop_reference(const Handle& handle) {
    if (--entry(handle).references == 0) free.insert(handle.index);
  }

  std::string noun;
  std::uint32_t owner = 0;
  std::vector<Entry> entries;
  std::set<std::int32_t> free;  // ordered: the lowest ids keep the touched memory together
  mutable std::mutex mutex;
};

HandleAllocator::HandleAllocator(std::string noun, std::int32_t capacity)
    : state_(std::make_unique<State>()) {
  static std::atomic<std::uint32_t> next_owner{1};
  state_->noun = std::move(noun);
  state_->owner = next_owner.fetch_add(1);
  state_->entries.resize(static_cast<std::size_t>(capacity > 0 ? capacity : 0));
  for (std::int32_t i = 0; i < capacity; ++i) state_->free.insert(state_->free.end(), i);
}
HandleAllocator::~HandleAllocator() = default;
HandleAllocator::HandleAllocator(HandleAllocator&&) noexcept = default;
HandleAllocator& HandleAllocator::operator=(HandleAllocator&&) noexcept = default;

Result<std::vector<Handle>> HandleAllocator::allocate(std::int32_t count) {
  const std::lock_guard lock(state_->mutex);
  if (count < 0) return invalid_argument("allocate: count is ", count, ", must be at least 0");
  if (static_cast<std::size_t>(count) > state_->free.size()) {
    return error(StatusCode::kResourceExhausted, "allocate: ", count, " ", state_->noun,
                 "s are wanted and ", state_->free.size(), " of ", state_->entries.size(),
                 " are free");
  }
  std::vector<Handle> handles;
  handles.reserve(static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t index = *state_->free.begin();
    state_->free.erase(state_->free.begin());
    State::Entry& entry = state_->entries[static_cast<std::size_t>(index)];
    entry.references = 1;
    handles.push_back(Handle{index, ++entry.generation, state_->owner});
  }
  return handles;
}

Status HandleAllocator::retain(const Handle& handle) {
  const std::lock_guard lock(state_->mutex);
  HYBRIDATTN_TRY(state_->check_live("retain", handle));
  ++state_->entry(handle).references;
  return {};
}

Status HandleAllocator::release(const Handle& handle) {
  return release(std::vector<Handle>{handle});
}

Status HandleAllocator::release(const std::vector<Handle>& handles) {
  const std::lock_guard lock(state_->mutex);
  std::multiset<std::int32_t> listed;
  for (const Handle& handle : handles) {
    HYBRIDATTN_TRY(state_->check_live("release", handle));
    listed.insert(handle.index);
    const auto times = static_cast<std::int32_t>(listed.count(handle.index));
    if (times > state_->entry(handle).references) {
      return error(StatusCode::kFailedPrecondition, "release: ", state_->noun, " ", handle.index,
                   " is listed ", times, " times and has ", state_->entry(handle).references,
                   " references");
    }
  }
  for (const Handle& handle : handles) state_->drop_reference(handle);
  return {};
}

bool HandleAllocator::live(const Handle& handle) const {
  const std::lock_guard lock(state_->mutex);
  return state_->live(handle);
}

std::int32_t HandleAllocator::references(const Handle& handle) const {
  const std::lock_guard lock(state_->mutex);
  return state_->live(handle) ? state_->entry(handle).references : 0;
}

std::int32_t HandleAllocator::capacity() const noexcept {
  return static_cast<std::int32_t>(state_->entries.size());
}

std::int32_t HandleAllocator::num_free() const {
  const std::lock_guard lock(state_->mutex);
  return static_cast<std::int32_t>(state_->free.size());
}

Status HandleAllocator::check() const {
  const std::lock_guard lock(state_->mutex);
  for (std::size_t i = 0; i < state_->entries.size(); ++i) {
    const bool free = state_->free.count(static_cast<std::int32_t>(i)) != 0;
    const std::int32_t references = state_->entries[i].references;
    if (references < 0 || free != (references == 0)) {
      return error(StatusCode::kInternal, "check: ", state_->noun, " ", i, " has ", references,
                   " references and is ", free ? "" : "not ", "in the free list");
    }
  }
  if (state_->free.size() > state_->entries.size()) {
    return error(StatusCode::kInternal, "check: ", state_->free.size(), " free ", state_->noun,
                 "s of ", state_->entries.size());
  }
  return {};
}

}  // namespace hybridattn
