// Zeroes and copies whole slots of a state pool, or whole pages of a cache.
#pragma once

#include <span>

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

/// A pool whose slots are written, and that of the sources.
struct SlotPool {
  TensorView pool{};       ///< as CopySlotsArgs::pool
  ConstTensorView from{};  ///< as CopySlotsArgs::from; empty = `pool` itself
};

struct CopySlotsOfPoolsArgs {
  std::span<const SlotPool> pools{};  ///< of any dtypes and sizes of slots; none overlaps another
  const std::int32_t* source = nullptr;       ///< [count], of every pool
  const std::int32_t* destination = nullptr;  ///< [count], all different, none of them a source
  std::int32_t count = 0;
  /// CUDA: the same arrays on the device. nullptr = the op uploads them for itself.
  const std::int32_t* device_source = nullptr;
  const std::int32_t* device_destination = nullptr;
};

/// copy_slots of the same slots in each pool, as the states of all layers: one launch, or one for
/// each 90 pools. Errors: as copy_slots, naming the pool; nothing is written in any pool then.
HYBRIDATTN_API Status copy_slots_of_pools(Context& context, const CopySlotsOfPoolsArgs& args);

struct ZeroSlotsArgs {
  TensorView pool{};                    ///< as above
  const std::int32_t* slots = nullptr;  ///< [count]; kPadIndex is skipped
  std::int32_t count = 0;
};

/// Sets slots to zero. Errors: invalid_argument, out_of_range; nothing is written on an error.
HYBRIDATTN_API Status zero_slots(Context& context, const ZeroSlotsArgs& args);

}  // namespace hybridattn
