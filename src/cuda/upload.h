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

/// Copies that wait to go together: in no order, so that no two may write to one place.
struct SmallCopies {
  static constexpr std::size_t kMost = 16;
  std::array<SmallCopy, kMost> all{};
  std::uint32_t count = 0;

  /// Whether there is room for one to `to`, and none before it writes there.
  bool can_take(const std::byte* to, std::size_t bytes) const {
    if (count == kMost) return false;
    for (std::uint32_t i = 0; i < count; ++i) {
      if (to < all[i].to + all[i].bytes && all[i].to < to + bytes) return false;
    }
    return true;
  }
};

/// Orders all of them on a stream, a cudaStream_t of the current device.
Status launch_copies(const SmallCopies& copies, void* stream);

}  // namespace hybridattn::cuda
