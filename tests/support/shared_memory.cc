#include "tests/support/shared_memory.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "src/core/context_impl.h"
#include "src/core/device.h"

namespace hybridattn::testing {
namespace {

class Heap final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    return ::operator new (bytes, std::align_val_t{64}, std::nothrow);
  }
  void deallocate(void* pointer, std::size_t) noexcept override {
    ::operator delete (pointer, std::align_val_t{64});
  }
};

/// Never closed: static tensors may outlive any order of destruction.
core::Device* device() {
  static core::Device* const opened = []() -> core::Device* {
    core::register_kernels();
    if (core::open_cuda == nullptr) return nullptr;
    auto result = core::open_cuda(0, nullptr);
    return result.ok() ? result->release() : nullptr;
  }();
  return opened;
}

}  // namespace

bool built_with_cuda() {
  core::register_kernels();
  return core::open_cuda != nullptr;
}

bool cuda_present() { return device() != nullptr; }

Allocator& shared_memory() {
  static Heap heap;
  return cuda_present() ? device()->pinned() : heap;
}

Bytes::Bytes(std::size_t size) : size_(size) {
  if (size == 0) return;
  data_ = static_cast<Byte*>(shared_memory().allocate(size));
  if (data_ == nullptr) throw std::bad_alloc();
}

Bytes::Bytes(std::size_t size, Byte value) : Bytes(size) {
  if (size > 0) std::memset(data_, value, size);
}

Bytes::Bytes(const Bytes& other) : Bytes(other.size_) {
  if (size_ > 0) std::memcpy(data_, other.data_, size_);
}

Bytes::~Bytes() {
  if (size_ > 0) shared_memory().deallocate(data_, size_);
}

bool Bytes::operator==(const Bytes& other) const {
  return std::equal(begin(), end(), other.begin(), other.end());
}

}  // namespace hybridattn::testing
