#include "engine/ops/embedding.h"

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cuda/kernels.h"
#include "hybridattn/status_macros.h"
#include "hybridattn/trace.h"

namespace hybridattn::engine {

Status check_ids(const char* op, std::span<const std::int32_t> ids, std::int64_t vocab,
                 std::size_t chosen) {
  const std::int64_t least = -static_cast<std::int64_t>(chosen);
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < least || ids[t] >= vocab) {
      return error(StatusCode::kOutOfRange, op, ": id ", ids[t], " at position ", t,
                   ", must be in [", least, ", ", vocab, ")");
    }
  }
  return {};
}

Status embed(Context& context, const EmbedArgs& args) {
  HYBRIDATTN_TRY(check_ids("embed", args.ids, args.table.dim(0), args.chosen.size()));
  if (context.device() == DeviceType::kCuda) return cuda::embed(context, args);
  cpu::embed(context, args);
  return {};
}

Status gather_rows(Context& context, const ConstTensorView& x, std::span<const std::int32_t> rows,
                   const std::int32_t* device_rows, const TensorView& out) {
  if (context.device() == DeviceType::kCuda) {
    return cuda::gather_rows(context, x, device_rows, out);
  }
  const TraceSpan span(context, "gather_rows");
  cpu::gather_rows(context, x, rows, out);
  return {};
}

}  // namespace hybridattn::engine
