// Cutting a worker's scratch into arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hybridattn::cpu {

/// Takes arrays off a block one after the other, each at a cache line. Whoever asked for the block
/// knows how large it must be.
class ScratchCut {
 public:
  explicit ScratchCut(std::byte* block) : next_(block) {}

  template <class T>
  void take(T*& array, std::int64_t count) {
    array = reinterpret_cast<T*>(next_);
    next_ += (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  std::byte* next_;
};

}  // namespace hybridattn::cpu
