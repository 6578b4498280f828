#include "src/core/env.h"

#include <cstdlib>

namespace hybridattn::core {

std::optional<std::string> read_env(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

}  // namespace hybridattn::core
