#include "hybridattn/ops/copy_slots.h"

#include <algorithm>
#include <limits>

#include "hybridattn/status_macros.h"
#include "src/core/kernel.h"
#include "src/ops/copy_slots_params.h"
#include "src/ops/place_rows.h"
#include "src/ops/slot_check.h"

namespace hybridattn {
namespace {

struct PoolBytes {
  const std::byte* base;
  std::int64_t stride;
  std::int64_t bytes;
};

std::byte* writable(const TensorView& pool) { return static_cast<std::byte*>(pool.data); }

/// How messages name pool `index` of a call; kOnlyPool: of one that has no others.
struct PoolName {
  const char* op;
  std::int64_t index;
};
constexpr std::int64_t kOnlyPool = -1;

template <class... Rest>
Status pool_error(StatusCode code, const PoolName& name, const char* what, const Rest&... rest) {
  if (name.index == kOnlyPool) return error(code, name.op, ": ", what, rest...);
  return error(code, name.op, ": pools[", name.index, "].", what, rest...);
}

/// A pool as slots of plain bytes. Errors: invalid_argument, unsupported.
Result<PoolBytes> pool_bytes(const PoolName& name, const char* what, const ConstTensorView& pool) {
  if (pool.rank < 1) {
    return pool_error(StatusCode::kInvalidArgument, name, what, " has rank 0, must be at least 1");
  }
  if (pool.data == nullptr) {
    return pool_error(StatusCode::kInvalidArgument, name, what, " has no data (a null pointer)");
  }
  std::int64_t elements = 1;
  for (int d = pool.rank - 1; d > 0; --d) {
    if (pool.dim(d) > 1 && pool.stride(d) != elements) {
      return pool_error(StatusCode::kUnsupported, name, what, " has stride ", pool.stride(d),
                        " in dimension ", d, ", must be ", elements, " (dense slots)");
    }
    elements *= pool.dim(d);
  }
  const auto size = static_cast<std::int64_t>(dtype_size(pool.dtype));
  return PoolBytes{static_cast<const std::byte*>(pool.data), pool.stride(0) * size,
                   elements * size};
}

Status check_slots(const char* op, const char* name, const std::int32_t* slots, std::int32_t count,
                   std::int64_t limit) {
  if (count < 0) return invalid_argument(op, ": count is ", count, ", must be at least 0");
  if (count > 0 && slots == nullptr) return invalid_argument(op, ": ", name, " is null");
  return ops::check_slots(op, name, slots, count, limit);
}

/// The pool of the sources. Errors: also invalid_argument when its slots are not those of `pool`.
Result<PoolBytes> source_bytes(const PoolName& name, const SlotPool& given, const PoolBytes& pool) {
  if (given.from.empty()) return pool;
  HYBRIDATTN_ASSIGN(const PoolBytes bytes, pool_bytes(name, "from", given.from));
  if (given.from.dtype != given.pool.dtype || bytes.bytes != pool.bytes) {
    return pool_error(StatusCode::kInvalidArgument, name, "from has slots of ", bytes.bytes,
                      " bytes of ", dtype_name(given.from.dtype), ", must be ", pool.bytes, " of ",
                      dtype_name(given.pool.dtype), " as in pool");
  }
  return bytes;
}

Result<ops::PoolSlots> pool_slots(const PoolName& name, const SlotPool& given) {
  HYBRIDATTN_ASSIGN(const PoolBytes pool, pool_bytes(name, "pool", given.pool));
  HYBRIDATTN_ASSIGN(const PoolBytes from, source_bytes(name, given, pool));
  return ops::PoolSlots{writable(given.pool), from.base, pool.stride, from.stride, pool.bytes};
}

/// Slots that every pool has.
struct CommonSlots {
  std::int64_t sources;
  std::int64_t destinations;
};

CommonSlots common_slots(std::span<const SlotPool> pools) {
  CommonSlots least{std::numeric_limits<std::int64_t>::max(),
                    std::numeric_limits<std::int64_t>::max()};
  for (const SlotPool& given : pools) {
    const std::int64_t sources = given.from.empty() ? given.pool.dim(0) : given.from.dim(0);
    least.sources = std::min(least.sources, sources);
    least.destinations = std::min(least.destinations, given.pool.dim(0));
  }
  return least;
}

/// Checks everything before the first pool is written. `only`: the one pool of copy_slots.
Status check_copy(const char* op, const CopySlotsOfPoolsArgs& args, bool only) {
  for (std::size_t i = 0; i < args.pools.size(); ++i) {
    const PoolName name{op, only ? kOnlyPool : static_cast<std::int64_t>(i)};
    HYBRIDATTN_TRY(pool_slots(name, args.pools[i]).status());
  }
  const CommonSlots slots = common_slots(args.pools);
  HYBRIDATTN_TRY(check_slots(op, "source", args.source, args.count, slots.sources));
  return check_slots(op, "destination", args.destination, args.count, slots.destinations);
}

Status copy_pools(Context& context, const char* op, const CopySlotsOfPoolsArgs& args, bool only) {
  HYBRIDATTN_TRY(check_copy(op, args, only));
  ops::CopySlotsParams params{};
  params.count = args.count;
  HYBRIDATTN_ASSIGN(params.source,
                    ops::place_array(context, args.source, args.count, args.device_source));
  HYBRIDATTN_ASSIGN(params.destination, ops::place_array(context, args.destination, args.count,
                                                         args.device_destination));
  for (std::size_t first = 0; first < args.pools.size(); first += ops::kMostSlotPools) {
    const std::size_t left = args.pools.size() - first;
    params.num_pools = static_cast<std::int32_t>(std::min<std::size_t>(left, ops::kMostSlotPools));
    for (std::int32_t i = 0; i < params.num_pools; ++i) {
      HYBRIDATTN_ASSIGN(params.pools[i], pool_slots({op, kOnlyPool}, args.pools[first + i]));
    }
    HYBRIDATTN_TRY(core::launch(context, op, params));
  }
  return {};
}

}  // namespace

Status copy_slots(Context& context, const CopySlotsArgs& args) {
  const SlotPool pool{args.pool, args.from};
  return copy_pools(context, "copy_slots",
                    {{&pool, 1},
                     args.source,
                     args.destination,
                     args.count,
                     args.device_source,
                     args.device_destination},
                    /*only=*/true);
}

Status copy_slots_of_pools(Context& context, const CopySlotsOfPoolsArgs& args) {
  return copy_pools(context, "copy_slots_of_pools", args, /*only=*/false);
}

Status zero_slots(Context& context, const ZeroSlotsArgs& args) {
  HYBRIDATTN_ASSIGN(const PoolBytes pool, pool_bytes({"zero_slots", kOnlyPool}, "pool", args.pool));
  HYBRIDATTN_TRY(check_slots("zero_slots", "slots", args.slots, args.count, args.pool.dim(0)));
  HYBRIDATTN_ASSIGN(const std::int32_t* slots, ops::place_array(context, args.slots, args.count));
  const ops::ZeroSlotsParams params{writable(args.pool), pool.stride, pool.bytes, slots,
                                    args.count};
  return core::launch(context, "zero_slots", params);
}

}  // namespace hybridattn
