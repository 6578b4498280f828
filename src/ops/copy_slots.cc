#include "hybridattn/ops/copy_slots.h"

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

/// A pool as slots of plain bytes. Errors: invalid_argument, unsupported.
Result<PoolBytes> pool_bytes(const char* op, const char* name, const ConstTensorView& pool) {
  if (pool.rank < 1) return invalid_argument(op, ": ", name, " has rank 0, must be at least 1");
  if (pool.data == nullptr)
    return invalid_argument(op, ": ", name, " has no data (a null pointer)");
  std::int64_t elements = 1;
  for (int d = pool.rank - 1; d > 0; --d) {
    if (pool.dim(d) > 1 && pool.stride(d) != elements) {
      return error(StatusCode::kUnsupported, op, ": ", name, " has stride ", pool.stride(d),
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
Result<PoolBytes> source_bytes(const CopySlotsArgs& args, const PoolBytes& pool) {
  if (args.from.empty()) return pool;
  HYBRIDATTN_ASSIGN(const PoolBytes bytes, pool_bytes("copy_slots", "from", args.from));
  if (args.from.dtype != args.pool.dtype || bytes.bytes != pool.bytes) {
    return invalid_argument("copy_slots: from has slots of ", bytes.bytes, " bytes of ",
                            dtype_name(args.from.dtype), ", must be ", pool.bytes, " of ",
                            dtype_name(args.pool.dtype), " as in pool");
  }
  return bytes;
}

}  // namespace

Status copy_slots(Context& context, const CopySlotsArgs& args) {
  HYBRIDATTN_ASSIGN(const PoolBytes pool, pool_bytes("copy_slots", "pool", args.pool));
  HYBRIDATTN_ASSIGN(const PoolBytes from, source_bytes(args, pool));
  const std::int64_t sources = args.from.empty() ? args.pool.dim(0) : args.from.dim(0);
  HYBRIDATTN_TRY(check_slots("copy_slots", "source", args.source, args.count, sources));
  HYBRIDATTN_TRY(
      check_slots("copy_slots", "destination", args.destination, args.count, args.pool.dim(0)));
  HYBRIDATTN_ASSIGN(const std::int32_t* source,
                    ops::place_array(context, args.source, args.count, args.device_source));
  HYBRIDATTN_ASSIGN(
      const std::int32_t* destination,
      ops::place_array(context, args.destination, args.count, args.device_destination));
  const ops::CopySlotsParams params{writable(args.pool), from.base, from.stride, pool.stride,
                                    pool.bytes,          source,    destination, args.count};
  return core::launch(context, "copy_slots", params);
}

Status zero_slots(Context& context, const ZeroSlotsArgs& args) {
  HYBRIDATTN_ASSIGN(const PoolBytes pool, pool_bytes("zero_slots", "pool", args.pool));
  HYBRIDATTN_TRY(check_slots("zero_slots", "slots", args.slots, args.count, args.pool.dim(0)));
  HYBRIDATTN_ASSIGN(const std::int32_t* slots, ops::place_array(context, args.slots, args.count));
  const ops::ZeroSlotsParams params{writable(args.pool), pool.stride, pool.bytes, slots,
                                    args.count};
  return core::launch(context, "zero_slots", params);
}

}  // namespace hybridattn
