// A hash table from a pair of ids to its merge: open addressing, built once.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hybridattn::engine {

struct Merge {
  std::uint32_t rank;
  std::int32_t id;  ///< What the pair becomes.
};

class PairMap {
 public:
  /// Makes room for `count` pairs and forgets what was there.
  void reset(std::size_t count) {
    slots_.assign(std::bit_ceil(count * 2 + 2), Slot{kEmpty, {}});
    shift_ = 64 - std::countr_zero(slots_.size());
  }

  /// Adds a pair of non-negative ids, or replaces its merge. At most `count` of `reset` pairs.
  void set(std::int32_t left, std::int32_t right, Merge merge) {
    const std::uint64_t key = key_of(left, right);
    std::size_t slot = first_slot(key);
    while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = next_slot(slot);
    slots_[slot] = {key, merge};
  }

  /// The merge of a pair, or null. Call `reset` before the first look-up.
  const Merge* find(std::int32_t left, std::int32_t right) const noexcept {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t slot = first_slot(key);; slot = next_slot(slot)) {
      if (slots_[slot].key == key) return &slots_[slot].merge;
      if (slots_[slot].key == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // ids are not negative
  struct Slot {
    std::uint64_t key;
    Merge merge;
  };

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) noexcept {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t first_slot(std::uint64_t key) const noexcept {
    // Two rounds of multiply and fold: ids are small and dense, so one round alone clusters.
    key = (key ^ (key >> 29)) * 0xBF58476D1CE4E5B9u;
    key = (key ^ (key >> 32)) * 0x94D049BB133111EBu;
    return static_cast<std::size_t>(key >> shift_);
  }
  std::size_t next_slot(std::size_t slot) const noexcept {
    return (slot + 1) & (slots_.size() - 1);
  }

  std::vector<Slot> slots_;
  int shift_ = 63;
};

}  // namespace hybridattn::engine
