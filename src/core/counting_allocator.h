// CountingAllocator: how many bytes of another allocator are in use.
#pragma once

#include <atomic>

#include "hybridattn/context.h"

namespace hybridattn::core {

/// Serves as many threads as `inner`, which is borrowed.
class CountingAllocator final : public Allocator {
 public:
  explicit CountingAllocator(Allocator& inner) : inner_(inner) {}

  void* allocate(std::size_t bytes) noexcept override {
    void* const block = inner_.allocate(bytes);
    if (block != nullptr) live_.fetch_add(bytes, std::memory_order_relaxed);
    return block;
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    inner_.deallocate(pointer, bytes);
    if (pointer != nullptr) live_.fetch_sub(bytes, std::memory_order_relaxed);
  }
  std::size_t live_bytes() const noexcept { return live_.load(std::memory_order_relaxed); }

 private:
  Allocator& inner_;
  std::atomic<std::size_t> live_{0};
};

}  // namespace hybridattn::core
