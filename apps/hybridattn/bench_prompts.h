// Prompts of the benchmarks of whole models.
#pragma once

#include <cstdint>
#include <vector>

namespace hybridattn::app {

/// Random ids below `vocab`, the same for the same seed.
inline std::vector<std::int32_t> random_prompt(std::int32_t length, std::int32_t vocab,
                                               std::uint32_t seed) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < length; ++i) {
    seed = seed * 1664525u + 1013904223u;
    ids.push_back(static_cast<std::int32_t>((seed >> 8) % static_cast<std::uint32_t>(vocab)));
  }
  return ids;
}

}  // namespace hybridattn::app
