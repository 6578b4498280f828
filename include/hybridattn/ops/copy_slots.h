// Zeroes and copies whole slots of a state pool, or whole pages of a cache.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct CopySlotsArgs {
  TensorView pool{};  ///< [slots, ...] of any dtype; every dimension but the first dense
  const std::int32_t* source = nullptr;       ///< [count]
  const std::int32_t* destination = nullptr;  ///< [count], all different, none of them a source
  std::int32_t count = 0;
  /// Pool that the sources are slots of: as `pool`, with any number of slots. Empty = `pool`
  /// itself.
  ConstTensorView from{};
  /// CUDA: the same arrays on the device. nullptr = the op uploads them for itself.
  const std::int32_t* device_source = nullptr;
  const std::int32_t* device_destination = nullptr;
};

/// Copies slot source[i] to slot destination[i], bytes as they are. A pair with kPadIndex on either
/// side is skipped. Errors: invalid_argument, out_of_range; nothing is written on an error.
HYBRIDATTN_API Status copy_slots(Context& context, const CopySlotsArgs& args);

struct ZeroSlotsArgs {
  TensorView pool{};                    ///< as above
  const std::int32_t* slots = nullptr;  ///< [count]; kPadIndex is skipped
  std::int32_t count = 0;
};

/// Sets slots to zero. Errors: invalid_argument, out_of_range; nothing is written on an error.
HYBRIDATTN_API Status zero_slots(Context& context, const ZeroSlotsArgs& args);

}  // namespace hybridattn
