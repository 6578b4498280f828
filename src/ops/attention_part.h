// How long the parts are into which the keys of attention are cut.
#pragma once

#include <cstdint>
#include <vector>

#include "src/ops/attention_plan.h"

namespace hybridattn::ops {

/// Pieces that choose_part makes, at most: so many times those that run at once, or a piece for
/// each tile.
inline constexpr std::int64_t kAttentionMostPieces = 5;

/// What runs the pieces.
struct AttentionSlots {
  std::int64_t at_once;  // pieces of one key head that run at once
  std::int64_t join;     // what adding up a part costs, in keys
  bool many;             // the tiles are of many query rows
};

/// Keys of a part with which all pieces are done first. Allocates nothing.
std::int64_t choose_part(const std::vector<AttentionTile>& tiles, const AttentionSlots& slots);

}  // namespace hybridattn::ops
