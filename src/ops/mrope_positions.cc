#include "hybridattn/mrope_positions.h"

#include <algorithm>
#include <limits>

#include "src/core/saturate.h"

namespace hybridattn {
namespace {

constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();

void append(MropePositions& out, std::int64_t time, std::int64_t height, std::int64_t width) {
  out.time.push_back(time);
  out.height.push_back(height);
  out.width.push_back(width);
}

}  // namespace

Result<MropePositions> mrope_positions(std::span<const MropeSpan> spans) {
  MropePositions out;
  std::int64_t next = 0;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const MropeSpan& span = spans[i];
    const bool text = span.text_tokens > 0 && span.grid_height == 0 && span.grid_width == 0;
    const bool picture = span.text_tokens == 0 && span.grid_height > 0 && span.grid_width > 0;
    if (!text && !picture) {
      return invalid_argument("mrope_positions: span ", i, " has ", span.text_tokens,
                              " text tokens and a grid of ", span.grid_height, " x ",
                              span.grid_width, ", must be text or a picture");
    }
    const std::int64_t tokens =
        text ? span.text_tokens : std::int64_t{span.grid_height} * span.grid_width;
    total = core::saturating_sum(total, tokens);
    if (total > kMostTokens) {
      return invalid_argument("mrope_positions: spans 0 to ", i, " have ", total,
                              " tokens, must be under 2^31");
    }
    for (std::int64_t t = 0; t < span.text_tokens; ++t) append(out, next + t, next + t, next + t);
    for (std::int32_t row = 0; row < span.grid_height; ++row) {
      for (std::int32_t column = 0; column < span.grid_width; ++column) {
        append(out, next, next + row, next + column);
      }
    }
    next += text ? span.text_tokens : std::max(span.grid_height, span.grid_width);
  }
  out.delta = next - static_cast<std::int64_t>(out.time.size());
  return out;
}

}  // namespace hybridattn
