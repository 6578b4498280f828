// Large blocks of memory for benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hybridattn::bench {

/// Zeroed memory, in huge pages where the system gives them. Owns it.
class BigBlock {
 public:
  explicit BigBlock(std::int64_t bytes)
      : bytes_((static_cast<std::size_t>(bytes) + kPage - 1) / kPage * kPage),
        data_(static_cast<std::byte*>(std::aligned_alloc(kPage, bytes_))) {
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    (void)madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
    std::memset(data_, 0, bytes_);
  }
  ~BigBlock() { std::free(data_); }
  BigBlock(const BigBlock&) = delete;
  BigBlock& operator=(const BigBlock&) = delete;

  std::byte* data() const { return data_; }

 private:
  static constexpr std::size_t kPage = std::size_t{2} << 20;
  std::size_t bytes_;
  std::byte* data_;
};

}  // namespace hybridattn::bench
