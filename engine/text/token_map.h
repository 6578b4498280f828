// A hash table from a token to its id. The strings stay where they are, in a vector by id; a slot
// has just the id and a part of the hash, so that loading a large vocabulary touches little memory.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hybridattn::engine {

class TokenMap {
 public:
  /// Makes room for `count` tokens and forgets what was there.
  void reset(std::size_t count) { slots_.assign(std::bit_ceil(count * 2 + 2), Slot{0, -1}); }

  /// Adds `tokens[id]`. False, and no change, when an equal token is there.
  bool add(const std::vector<std::string>& tokens, std::int32_t id) {
    const std::string& token = tokens[static_cast<std::size_t>(id)];
    const std::size_t hash = std::hash<std::string_view>{}(token);
    Slot& slot = slots_[slot_of(tokens, token, hash)];
    if (slot.id >= 0) return false;
    slot = {tag_of(hash), id};
    return true;
  }

  /// The id of a token, or -1. `tokens` is what `add` was given. Call `reset` before.
  std::int32_t find(const std::vector<std::string>& tokens, std::string_view token) const noexcept {
    return slots_[slot_of(tokens, token, std::hash<std::string_view>{}(token))].id;
  }

 private:
  struct Slot {
    std::uint32_t tag;
    std::int32_t id;  // -1: free
  };

  static std::uint32_t tag_of(std::size_t hash) noexcept {
    return static_cast<std::uint32_t>(std::uint64_t{hash} >> 32);
  }

  /// The slot of the token, or the free one where it belongs. There is always a free one.
  std::size_t slot_of(const std::vector<std::string>& tokens, std::string_view token,
                      std::size_t hash) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = hash & mask;
    for (; slots_[at].id >= 0; at = (at + 1) & mask) {
      if (slots_[at].tag != tag_of(hash)) continue;
      if (tokens[static_cast<std::size_t>(slots_[at].id)] == token) break;
    }
    return at;
  }

  std::vector<Slot> slots_;
};

}  // namespace hybridattn::engine
