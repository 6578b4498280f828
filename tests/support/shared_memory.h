// Memory of test tensors: where a GPU is at hand, host memory that its kernels reach under the same
// addresses, so that each test of an op is one of all devices.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "hybridattn/context.h"

namespace hybridattn::testing {

/// Whether this build has CUDA kernels, and whether a device can run them.
bool built_with_cuda();
bool cuda_present();

/// Pinned host memory where cuda_present(), else the heap. Aligned to 64 bytes.
Allocator& shared_memory();

/// The same for containers.
template <class T>
struct SharedMemory {
  using value_type = T;
  SharedMemory() = default;
  template <class U>
  SharedMemory(const SharedMemory<U>&) {}

  T* allocate(std::size_t count) {
    void* data = shared_memory().allocate(count * sizeof(T));
    if (data == nullptr) throw std::bad_alloc();
    return static_cast<T*>(data);
  }
  void deallocate(T* data, std::size_t count) {
    shared_memory().deallocate(data, count * sizeof(T));
  }
  bool operator==(const SharedMemory&) const { return true; }
};

using Bytes = std::vector<std::byte, SharedMemory<std::byte>>;

}  // namespace hybridattn::testing
