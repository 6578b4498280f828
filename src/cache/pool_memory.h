// Memory of a pool, from the context's allocator, cut into layers.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "src/core/saturate.h"

namespace hybridattn::cache {

/// `count` pieces of `piece` bytes from the allocator. Errors: resource_exhausted, naming the pool.
inline Result<void*> allocate_pool(Context& context, const char* pool, std::int64_t count,
                                   std::int64_t piece) {
  const std::int64_t bytes = core::saturating_product({count, piece});
  if (bytes == core::kTooLarge) {
    return error(StatusCode::kResourceExhausted, pool, ": ", count,
                 " of the shape need 2^63 bytes or more");
  }
  void* memory = context.allocator().allocate(static_cast<std::size_t>(bytes > 0 ? bytes : 1));
  if (memory == nullptr) {
    return error(StatusCode::kResourceExhausted, pool, ": the allocator gave no ", bytes, " bytes");
  }
  return memory;
}

/// Takes pieces off a block, one after the other.
class Cutter {
 public:
  explicit Cutter(void* memory) : next_(static_cast<std::byte*>(memory)) {}
  void* take(std::int64_t bytes) {
    std::byte* piece = next_;
    next_ += bytes;
    return piece;
  }

 private:
  std::byte* next_;
};

}  // namespace hybridattn::cache
