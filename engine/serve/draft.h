// Drafting without a model: what followed the last time that the text stood as it stands now.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hybridattn::engine {

/// Up to `count` tokens: those behind the latest earlier place where the last three tokens of
/// `history` stand, or the last two where there is no such place; none where there is neither.
std::vector<std::int32_t> draft_tokens(std::span<const std::int32_t> history, std::int32_t count);

}  // namespace hybridattn::engine
