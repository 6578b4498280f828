#include "engine/serve/draft.h"

#include <algorithm>

namespace hybridattn::engine {

std::vector<std::int32_t> draft_tokens(std::span<const std::int32_t> history, std::int32_t count) {
  for (const std::size_t length : {std::size_t{3}, std::size_t{2}}) {
    if (history.size() <= length || count <= 0) continue;
    const auto last = history.last(length);
    const auto earlier = history.first(history.size() - 1);
    const auto found = std::find_end(earlier.begin(), earlier.end(), last.begin(), last.end());
    if (found == earlier.end()) continue;
    const auto behind = history.subspan(static_cast<std::size_t>(found - earlier.begin()) + length);
    const auto drafted = behind.first(std::min(behind.size(), static_cast<std::size_t>(count)));
    return {drafted.begin(), drafted.end()};
  }
  return {};
}

}  // namespace hybridattn::engine
