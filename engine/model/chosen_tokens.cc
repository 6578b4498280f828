#include "engine/model/chosen_tokens.h"

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {

void ChosenTokens::release() {
  const std::size_t bytes = size_ * sizeof(NextToken);
  if (device_ != nullptr) context_.allocator().deallocate(device_, bytes);
  for (Copy& copy : copies_) {
    if (copy.host != nullptr) context_.pinned_allocator().deallocate(copy.host, bytes);
    copy = {};
  }
  device_ = nullptr;
  size_ = 0;
}

Status ChosenTokens::reserve(std::size_t count) {
  if (count <= size_) return {};
  HYBRIDATTN_TRY(context_.synchronize());  // copies may still be on their way
  release();
  size_ = count;
  const std::size_t bytes = count * sizeof(NextToken);
  device_ = static_cast<NextToken*>(context_.allocator().allocate(bytes));
  bool all = device_ != nullptr;
  for (Copy& copy : copies_) {
    copy.host = static_cast<NextToken*>(context_.pinned_allocator().allocate(bytes));
    all = all && copy.host != nullptr;
    HYBRIDATTN_ASSIGN(copy.arrived, Fence::create(context_));
  }
  if (all) return {};
  release();
  return error(StatusCode::kResourceExhausted, "the tokens of steps: the allocator gave no ", bytes,
               " bytes");
}

Result<std::uint64_t> ChosenTokens::send(std::size_t count) {
  Copy& copy = copy_of(sent_);
  copy.count = count;
  HYBRIDATTN_TRY(context_.copy(copy.host, device_, count * sizeof(NextToken)));
  HYBRIDATTN_TRY(copy.arrived->set());
  return sent_++;
}

Result<std::span<const NextToken>> ChosenTokens::receive(std::uint64_t sending) {
  if (sending >= sent_ || sent_ - sending > kSent) {
    return error(StatusCode::kFailedPrecondition, "the tokens of step ", sending, " are not held, ",
                 sent_, " were sent and the last ", kSent, " are");
  }
  const Copy& copy = copy_of(sending);
  HYBRIDATTN_TRY(copy.arrived->wait());
  return std::span<const NextToken>(copy.host, copy.count);
}

}  // namespace hybridattn::engine
