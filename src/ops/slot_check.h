// What a list of slots or places may name.
#pragma once

#include <cstdint>

#include "hybridattn/status.h"
#include "hybridattn/tensor.h"

namespace hybridattn::ops {

/// Each of `count` entries is kPadIndex or in [0, limit). Errors: out_of_range, naming the entry.
template <class Slot>
Status check_slots(const char* op, const char* name, const Slot* slots, std::int64_t count,
                   std::int64_t limit) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (slots[i] != kPadIndex && (slots[i] < 0 || slots[i] >= limit)) {
      return error(StatusCode::kOutOfRange, op, ": ", name, "[", i, "] is ", slots[i],
                   ", must be -1 (pad) or in [0, ", limit, ")");
    }
  }
  return {};
}

}  // namespace hybridattn::ops
