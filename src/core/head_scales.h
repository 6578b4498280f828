// The scales of a cache in few bits, as kernels on both devices read them.
#pragma once

#include <cstdint>

namespace hybridattn::core {

/// One scale of all heads, or one of each in the memory of the context's device.
struct HeadScales {
  float all = 1.0f;
  const float* each = nullptr;  // [heads]

  constexpr float of(std::int64_t head) const { return each == nullptr ? all : each[head]; }
};

}  // namespace hybridattn::core
