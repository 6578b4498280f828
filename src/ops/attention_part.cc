#include "src/ops/attention_part.h"

#include <algorithm>
#include <functional>

namespace hybridattn::ops {
namespace {

/// What a block costs beside its own keys, in keys.
constexpr std::int64_t kSetUp = 128;
/// Tiles that fill the slots so many times are not cut.
constexpr std::int64_t kMostWaves = 3;
/// Of the times that pieces may fill the slots, how many are tried.
constexpr std::int64_t kMoreWaves = 2;
static_assert(kMostWaves + kMoreWaves <= kAttentionMostPieces);

std::int64_t keys_of(const AttentionTile& tile) { return std::max(tile.end - tile.begin, 1); }

/// The least keys of a part with which the tiles, of `all` keys together, make at most `most`
/// pieces, of which there are more than tiles.
std::int64_t least_part(const std::vector<AttentionTile>& tiles, std::int64_t all,
                        std::int64_t most, std::int64_t longest) {
  const auto in_cuts = [](std::int64_t keys) { return (keys + kAttentionCut - 1) / kAttentionCut; };
  const auto count = static_cast<std::int64_t>(tiles.size());
  // all / part <= pieces <= all / part + tiles.
  std::int64_t least = std::max<std::int64_t>(in_cuts(all / most), 1);
  std::int64_t enough = in_cuts(longest);
  if (most > count) enough = std::min(enough, in_cuts(all / (most - count) + 1));
  while (least < enough) {
    const std::int64_t middle = (least + enough) / 2;
    const auto part = static_cast<std::uint32_t>(middle * kAttentionCut);
    std::int64_t pieces = 0;
    for (const AttentionTile& tile : tiles) {
      const auto keys = static_cast<std::uint32_t>(tile.end - tile.begin);
      pieces += std::max(1u, (keys + part - 1) / part);
    }
    if (pieces <= most) {
      enough = middle;
    } else {
      least = middle + 1;
    }
  }
  return enough * kAttentionCut;
}

/// Calls try_part(part, w) for parts whose pieces fill the slots w times, evenly.
template <class Try>
void for_even_parts(const std::vector<AttentionTile>& tiles, std::int64_t at_once, std::int64_t all,
                    std::int64_t longest, const Try& try_part) {
  const std::int64_t waves = static_cast<std::int64_t>(tiles.size()) / at_once + 1;
  for (std::int64_t w = waves; w < waves + kMoreWaves; ++w) {
    const std::int64_t least = least_part(tiles, all, w * at_once, longest);
    for (const std::int64_t part : {least, 2 * least}) {
      if (part < longest) try_part(part, w);
    }
  }
}

/// Tiles of few query rows: the pieces take about as long as each other.
std::int64_t choose_even_part(const std::vector<AttentionTile>& tiles, const AttentionSlots& slots,
                              std::int64_t all, std::int64_t longest) {
  const auto count = static_cast<std::int64_t>(tiles.size());
  std::int64_t best = longest;
  std::int64_t best_cost =
      std::max(longest + kSetUp, (all + count * kSetUp + slots.at_once - 1) / slots.at_once);
  for_even_parts(tiles, slots.at_once, all, longest, [&](std::int64_t part, std::int64_t w) {
    const std::int64_t cost = w * (part + kSetUp) + slots.join * (longest / part);
    if (cost < best_cost) best = part, best_cost = cost;
  });
  return best;
}

/// When the last slot ends if pieces are given out longest first, each to the slot that is free
/// first, as the kernels do.
class LongestFirst {
 public:
  LongestFirst(const std::vector<AttentionTile>& tiles, std::int64_t slots)
      : tiles_(tiles), slots_(slots) {}

  static bool holds(std::size_t tiles, std::int64_t slots) {
    return tiles <= kTiles && slots <= kSlots;
  }
  /// With parts of so many keys; -1 where they make more than `most` pieces.
  std::int64_t end(std::int64_t part, std::int64_t most) {
    std::int64_t whole = 0, rests = 0;
    for (const AttentionTile& tile : tiles_) {
      const std::int64_t keys = keys_of(tile);
      whole += keys / part;
      if (keys % part != 0) rests_[rests++] = static_cast<std::int32_t>(keys % part);
    }
    if (whole + rests > most) return -1;
    // Whole parts fill the slots in rounds.
    for (std::int64_t i = 0; i < slots_; ++i) {
      ends_[i] = ((whole + slots_ - 1 - i) / slots_) * (part + kSetUp);
    }
    std::sort(rests_, rests_ + rests, std::greater<>());
    std::make_heap(ends_, ends_ + slots_, std::greater<>());
    for (std::int64_t i = 0; i < rests; ++i) {
      std::pop_heap(ends_, ends_ + slots_, std::greater<>());
      ends_[slots_ - 1] += rests_[i] + kSetUp;
      std::push_heap(ends_, ends_ + slots_, std::greater<>());
    }
    return *std::max_element(ends_, ends_ + slots_);
  }

 private:
  static constexpr std::int64_t kSlots = 256, kTiles = 3 * kSlots;
  const std::vector<AttentionTile>& tiles_;
  const std::int64_t slots_;
  std::int64_t ends_[kSlots];
  std::int32_t rests_[kTiles];
};

/// Tiles of many query rows, which a causal mask makes as different as can be: the part that lets
/// the last slot end first.
std::int64_t choose_part_of_many(const std::vector<AttentionTile>& tiles,
                                 const AttentionSlots& slots, std::int64_t all,
                                 std::int64_t longest) {
  constexpr std::int64_t kMostParts = 8;  // of the longest tile, beside those that fill the slots
  LongestFirst schedule(tiles, slots.at_once);
  const auto count = static_cast<std::int64_t>(tiles.size());
  const std::int64_t most = std::max(count, kAttentionMostPieces * slots.at_once);
  std::int64_t best = longest, best_cost = schedule.end(longest, most);
  const auto try_part = [&](std::int64_t part, std::int64_t) {
    const std::int64_t end = schedule.end(part, most);
    const std::int64_t cost = end + slots.join * (longest / part);
    if (end >= 0 && cost < best_cost) best = part, best_cost = cost;
  };
  for_even_parts(tiles, slots.at_once, all, longest, try_part);
  for (std::int64_t parts = 2; parts <= kMostParts; ++parts) {
    const std::int64_t keys = (longest + parts - 1) / parts;
    const std::int64_t part = (keys + kAttentionCut - 1) / kAttentionCut * kAttentionCut;
    if (part < longest) try_part(part, 0);
  }
  return best;
}

}  // namespace

std::int64_t choose_part(const std::vector<AttentionTile>& tiles, const AttentionSlots& given) {
  AttentionSlots slots = given;
  slots.at_once = std::max<std::int64_t>(slots.at_once, 1);
  std::int64_t longest = 1, all = 0;
  for (const AttentionTile& tile : tiles) {
    longest = std::max(longest, keys_of(tile));
    all += keys_of(tile);
  }
  const auto count = static_cast<std::int64_t>(tiles.size());
  if (count == 0 || count >= kMostWaves * slots.at_once) return longest;
  return slots.many && LongestFirst::holds(tiles.size(), slots.at_once)
             ? choose_part_of_many(tiles, slots, all, longest)
             : choose_even_part(tiles, slots, all, longest);
}

}  // namespace hybridattn::ops
