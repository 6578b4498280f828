// Weights on a GPU.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "hybridattn/context.h"

namespace hybridattn::engine {

/// Blocks of a context's device memory. Owns them; `context` is borrowed.
class DeviceBlocks {
 public:
  explicit DeviceBlocks(Context& context) : context_(context) {}
  ~DeviceBlocks() {
    for (const auto& [block, bytes] : blocks_) context_.allocator().deallocate(block, bytes);
  }
  DeviceBlocks(const DeviceBlocks&) = delete;
  DeviceBlocks& operator=(const DeviceBlocks&) = delete;

  /// Errors: resource_exhausted with the bytes that were wanted and are held.
  Result<std::byte*> take(std::size_t bytes) {
    auto* block = static_cast<std::byte*>(context_.allocator().allocate(bytes));
    if (block == nullptr) {
      return error(StatusCode::kResourceExhausted, "weights: the allocator gave no ", bytes,
                   " bytes beside the ", held_, " that it has given");
    }
    blocks_.emplace_back(block, bytes);
    held_ += bytes;
    return block;
  }
  std::size_t bytes() const { return held_; }

 private:
  Context& context_;
  std::vector<std::pair<std::byte*, std::size_t>> blocks_;
  std::size_t held_ = 0;
};

}  // namespace hybridattn::engine
