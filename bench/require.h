// A benchmark whose answer is wrong has no times.
#pragma once

#include <stdexcept>
#include <string>

#include "hybridattn/status.h"

namespace hybridattn::bench {

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}
inline void require_ok(const Status& status) {
  require(status.ok(), std::string(status.message()));
}

}  // namespace hybridattn::bench
