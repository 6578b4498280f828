// Positions of tokens in models that see images: three a token, and one number for what follows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hybridattn/export.h"
#include "hybridattn/status.h"

namespace hybridattn {

/// A run of a prompt: text, or one picture as the grid of its tokens (after merging), row by row.
struct MropeSpan {
  std::int64_t text_tokens = 0;
  std::int32_t grid_height = 0;  ///< with grid_width: a picture of height * width tokens
  std::int32_t grid_width = 0;
};

struct MropePositions {
  std::vector<std::int64_t> time, height, width;  ///< [tokens]
  /// What decoding adds to the count of tokens before the new one to get its position, the same on
  /// all three axes. Keep it with the request: RequestTable::set_position_delta.
  std::int64_t delta = 0;
};

/// Text advances all three positions by one a token. A picture's tokens share one time and have
/// their row and column in the grid on top of it; what follows starts max(height, width) further
/// on. Source: Qwen3-VL. Errors: invalid_argument for a span that is both or
/// neither kind, and for 2^31 tokens or more.
HYBRIDATTN_API Result<MropePositions> mrope_positions(std::span<const MropeSpan> spans);

}  // namespace hybridattn
