// Memory of test tensors: where a GPU is at hand, host memory that its kernels reach under the same
// addresses, so that each test of an op is one of all devices.
#pragma once

#include <cstddef>
#include <utility>

#include "hybridattn/context.h"

namespace hybridattn::testing {

/// Whether this build has CUDA kernels, and whether a device can run them.
bool built_with_cuda();
bool cuda_present();

/// Pinned host memory where cuda_present(), else the heap. Aligned to 64 bytes.
Allocator& shared_memory();

/// Vectors of it are filled, copied and compared whole, those of std::byte one by one: that is what
/// tests under sanitizers would wait for.
using Byte = unsigned char;

/// Bytes in shared_memory().
class Bytes {
 public:
  Bytes() = default;
  Bytes(std::size_t size, Byte value);
  Bytes(const Bytes& other);
  Bytes(Bytes&& other) noexcept : data_(other.data_), size_(other.size_) { other.forget(); }
  Bytes& operator=(Bytes other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Bytes();

  Byte* data() { return data_; }
  const Byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  Byte& operator[](std::size_t i) { return data_[i]; }
  const Byte& operator[](std::size_t i) const { return data_[i]; }
  Byte* begin() { return data_; }
  Byte* end() { return data_ + size_; }
  const Byte* begin() const { return data_; }
  const Byte* end() const { return data_ + size_; }
  bool operator==(const Bytes& other) const;

 private:
  explicit Bytes(std::size_t size);
  void forget() {
    data_ = nullptr;
    size_ = 0;
  }

  Byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace hybridattn::testing
