// What a copy_slots kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/copy_slots.h"

namespace hybridattn::ops {

/// One pool of a call.
struct PoolSlots {
  std::byte* pool;
  const std::byte* from;     // pool of the sources
  std::int64_t slot_stride;  // bytes
  std::int64_t from_stride;  // bytes
  std::int64_t slot_bytes;   // bytes of one slot
};

/// Pools of one launch: with what a kernel adds, they fit the 4 KB of its arguments.
inline constexpr int kMostSlotPools = 90;

struct CopySlotsParams {
  const std::int32_t* source;       // [count]
  const std::int32_t* destination;  // [count]
  std::int32_t count;
  std::int32_t num_pools;
  PoolSlots pools[kMostSlotPools];
};

struct ZeroSlotsParams {
  std::byte* pool;
  std::int64_t slot_stride;   // bytes
  std::int64_t slot_bytes;    // bytes of one slot
  const std::int32_t* slots;  // [count]
  std::int32_t count;
};

}  // namespace hybridattn::ops
