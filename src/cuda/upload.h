// Several small copies from pinned memory to a device as one kernel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "hybridattn/status.h"

namespace hybridattn::cuda {

struct SmallCopy {
  std::byte* to;
  const std::byte* from;  // pinned
  std::uint32_t bytes;
};

/// Copies that wait to go together.
struct SmallCopies {
  static constexpr std::size_t kMost = 16;
  std::array<SmallCopy, kMost> all{};
  std::uint32_t count = 0;
};

/// Orders all of them on a stream, a cudaStream_t of the current device.
Status launch_copies(const SmallCopies& copies, void* stream);

}  // namespace hybridattn::cuda
