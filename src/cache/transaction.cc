#include "hybridattn/transaction.h"

#include <algorithm>
#include <mutex>

#include "hybridattn/status_macros.h"
#include "src/cache/handle_state.h"

namespace hybridattn {

Transaction::~Transaction() { rollback(); }

Transaction::Part& Transaction::part_of(HandleAllocator& allocator) {
  const auto is_it = [&](const Part& part) { return part.allocator == &allocator; };
  const auto found = std::find_if(parts_.begin(), parts_.end(), is_it);
  if (found != parts_.end()) return *found;
  return parts_.emplace_back(Part{&allocator, {}, {}});
}

Result<std::vector<Handle>> Transaction::allocate(HandleAllocator& allocator, std::int32_t count) {
  Part& part = part_of(allocator);
  HYBRIDATTN_ASSIGN(std::vector<Handle> handles, allocator.allocate(count));
  part.allocated.insert(part.allocated.end(), handles.begin(), handles.end());
  return handles;
}

Status Transaction::release(HandleAllocator& allocator, std::span<const Handle> handles) {
  Part& part = part_of(allocator);
  const std::size_t before = part.released.size();
  part.released.insert(part.released.end(), handles.begin(), handles.end());
  const std::lock_guard lock(allocator.state_->mutex);
  Status status = allocator.state_->check_release(part.released);
  if (!status.ok()) part.released.resize(before);
  return status;
}

Status Transaction::commit() {
  // In the order of the owners, so that two transactions never wait for each other.
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
    return a.allocator->state_->owner < b.allocator->state_->owner;
  });
  Status status;
  {
    std::vector<std::unique_lock<std::mutex>> locks;
    for (const Part& part : parts_) locks.emplace_back(part.allocator->state_->mutex);
    for (const Part& part : parts_) {
      if (status.ok()) status = part.allocator->state_->check_release(part.released);
    }
    for (const Part& part : parts_) {
      if (status.ok()) part.allocator->state_->release(part.released);
    }
  }
  if (status.ok()) {
    parts_.clear();
  } else {
    rollback();
  }
  return status;
}

void Transaction::rollback() noexcept {
  for (const Part& part : parts_) {
    // Handles of this transaction alone: they are live unless the caller gave them away himself,
    // and then they are no longer ours to give back.
    const std::lock_guard lock(part.allocator->state_->mutex);
    for (const Handle& handle : part.allocated) {
      if (part.allocator->state_->live(handle)) part.allocator->state_->release({&handle, 1});
    }
  }
  parts_.clear();
}

}  // namespace hybridattn
