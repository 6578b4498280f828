// A set of ids as bits: lowest first, no allocation after it is made.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hybridattn::cache {

class IdSet {
 public:
  /// Empty, for ids [0, capacity).
  explicit IdSet(std::int32_t capacity = 0)
      : words_((static_cast<std::size_t>(capacity) + 63) / 64, 0) {}

  std::int32_t count() const noexcept { return count_; }
  bool contains(std::int32_t id) const { return (word(id) >> (id % 64) & 1) != 0; }
  void insert(std::int32_t id) {
    if (contains(id)) return;
    word(id) |= std::uint64_t{1} << (id % 64);
    ++count_;
    if (static_cast<std::size_t>(id) / 64 < first_) first_ = static_cast<std::size_t>(id) / 64;
  }
  /// Only when there is one.
  std::int32_t take_lowest() {
    while (words_[first_] == 0) ++first_;
    const int bit = std::countr_zero(words_[first_]);
    words_[first_] &= words_[first_] - 1;
    --count_;
    return static_cast<std::int32_t>(first_ * 64) + bit;
  }

 private:
  std::uint64_t& word(std::int32_t id) { return words_[static_cast<std::size_t>(id) / 64]; }
  std::uint64_t word(std::int32_t id) const { return words_[static_cast<std::size_t>(id) / 64]; }

  std::vector<std::uint64_t> words_;
  std::int32_t count_ = 0;
  std::size_t first_ = 0;  // no word before it holds an id
};

}  // namespace hybridattn::cache
