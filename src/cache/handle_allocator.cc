#include "hybridattn/handle_allocator.h"

#include <atomic>

#include "hybridattn/status_macros.h"
#include "src/cache/handle_state.h"

namespace hybridattn {

HandleAllocator::State::State(std::string name, std::int32_t count, std::int32_t first)
    : noun(std::move(name)), first_id(first), entries(static_cast<std::size_t>(count)),
      free(count) {
  static std::atomic<std::uint32_t> next_owner{1};
  owner = next_owner.fetch_add(1);
  for (std::int32_t i = 0; i < count; ++i) free.insert(i);
  pending.reserve(entries.size());
}

bool HandleAllocator::State::live(const Handle& handle) const {
  if (handle.owner != owner || handle.index < first_id || handle.index - first_id >= capacity()) {
    return false;
  }
  return entry(handle).generation == handle.generation && entry(handle).references > 0;
}

Status HandleAllocator::State::check_live(const char* verb, const Handle& handle) const {
  if (live(handle)) return {};
  if (handle.owner != owner) {
    return error(StatusCode::kFailedPrecondition, verb, ": ", noun, " ", handle.index,
                 " belongs to allocator ", handle.owner, ", this is allocator ", owner);
  }
  return error(StatusCode::kFailedPrecondition, verb, ": ", noun, " ", handle.index,
               " of generation ", handle.generation, " is not live (freed before?)");
}

Status HandleAllocator::State::check_release(std::span<const Handle> handles) {
  Status status;
  std::size_t counted = 0;
  for (; counted < handles.size() && status.ok(); ++counted) {
    const Handle& handle = handles[counted];
    status = check_live("release", handle);
    if (!status.ok()) break;
    if (++entry(handle).listed > entry(handle).references) {
      status = error(StatusCode::kFailedPrecondition, "release: ", noun, " ", handle.index,
                     " is listed ", entry(handle).listed, " times and has ",
                     entry(handle).references, " references");
    }
  }
  for (std::size_t i = 0; i < counted; ++i) entry(handles[i]).listed = 0;
  return status;
}

Result<std::vector<Handle>> HandleAllocator::State::allocate(std::int32_t count) {
  if (count < 0) return invalid_argument("allocate: count is ", count, ", must be at least 0");
  if (count > 0 && fail_in > 0 && --fail_in == 0) {
    return error(StatusCode::kResourceExhausted, "allocate: ", count, " ", noun,
                 "s are wanted and fail_allocation asked for a failure");
  }
  if (count > free.count()) {
    return error(StatusCode::kResourceExhausted, "allocate: ", count, " ", noun,
                 "s are wanted and ", free.count(), " of ", entries.size(), " are free");
  }
  std::vector<Handle> handles;
  handles.reserve(static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t place = free.take_lowest();
    Entry& taken = entries[static_cast<std::size_t>(place)];
    taken.references = 1;
    handles.push_back(Handle{first_id + place, ++taken.generation, owner});
  }
  return handles;
}

void HandleAllocator::State::release(std::span<const Handle> handles) {
  for (const Handle& handle : handles) {
    if (--entry(handle).references > 0) continue;
    if (grouped) {
      pending.push_back(handle.index - first_id);
    } else {
      free.insert(handle.index - first_id);
    }
  }
}

void HandleAllocator::State::end_group() {
  for (const std::int32_t place : pending) free.insert(place);
  pending.clear();
  grouped = false;
}

Status HandleAllocator::State::check() const {
  std::vector<std::int32_t> waiting(entries.size(), 0);
  for (const std::int32_t place : pending) ++waiting[static_cast<std::size_t>(place)];
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::int32_t references = entries[i].references;
    const int places = (free.contains(static_cast<std::int32_t>(i)) ? 1 : 0) + waiting[i];
    if (references < 0 || entries[i].listed != 0 || places != (references == 0 ? 1 : 0)) {
      return error(StatusCode::kInternal, "check: ", noun, " ",
                   first_id + static_cast<std::int32_t>(i), " has ", references,
                   " references and stands ", places, " times among the free ones");
    }
  }
  return {};
}

HandleAllocator::HandleAllocator(std::string noun, std::int32_t capacity, std::int32_t first_id)
    : state_(std::make_unique<State>(std::move(noun), capacity > 0 ? capacity : 0, first_id)) {}
HandleAllocator::~HandleAllocator() = default;
HandleAllocator::HandleAllocator(HandleAllocator&&) noexcept = default;
HandleAllocator& HandleAllocator::operator=(HandleAllocator&&) noexcept = default;

Result<std::vector<Handle>> HandleAllocator::allocate(std::int32_t count) {
  const std::lock_guard lock(state_->mutex);
  return state_->allocate(count);
}

Status HandleAllocator::retain(const Handle& handle) {
  const std::lock_guard lock(state_->mutex);
  HYBRIDATTN_TRY(state_->check_live("retain", handle));
  ++state_->entry(handle).references;
  return {};
}

Status HandleAllocator::release(const Handle& handle) { return release(std::span(&handle, 1)); }

Status HandleAllocator::release(const std::vector<Handle>& handles) {
  return release(std::span<const Handle>(handles));
}

Status HandleAllocator::release(std::span<const Handle> handles) {
  const std::lock_guard lock(state_->mutex);
  HYBRIDATTN_TRY(state_->check_release(handles));
  state_->release(handles);
  return {};
}

Status HandleAllocator::free_group_begin() {
  const std::lock_guard lock(state_->mutex);
  if (state_->grouped) {
    return error(StatusCode::kFailedPrecondition, "free_group_begin: a group of ", state_->noun,
                 "s is open already");
  }
  state_->grouped = true;
  return {};
}

Status HandleAllocator::free_group_end() {
  const std::lock_guard lock(state_->mutex);
  if (!state_->grouped) {
    return error(StatusCode::kFailedPrecondition, "free_group_end: no group of ", state_->noun,
                 "s is open");
  }
  state_->end_group();
  return {};
}

void HandleAllocator::clear() {
  const std::lock_guard lock(state_->mutex);
  state_->end_group();
  for (std::int32_t i = 0; i < state_->capacity(); ++i) {
    state_->entries[static_cast<std::size_t>(i)].references = 0;
    state_->free.insert(i);
  }
}

void HandleAllocator::fail_allocation(std::int64_t nth) {
  const std::lock_guard lock(state_->mutex);
  state_->fail_in = nth;
}

bool HandleAllocator::live(const Handle& handle) const {
  const std::lock_guard lock(state_->mutex);
  return state_->live(handle);
}

std::int32_t HandleAllocator::references(const Handle& handle) const {
  const std::lock_guard lock(state_->mutex);
  return state_->live(handle) ? state_->entry(handle).references : 0;
}

std::int32_t HandleAllocator::capacity() const noexcept { return state_->capacity(); }

std::int32_t HandleAllocator::num_free() const {
  const std::lock_guard lock(state_->mutex);
  return state_->free.count();
}

Status HandleAllocator::check() const {
  const std::lock_guard lock(state_->mutex);
  return state_->check();
}

}  // namespace hybridattn
