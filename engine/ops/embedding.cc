#include "engine/ops/embedding.h"

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cuda/kernels.h"
#include "hybridattn/trace.h"

namespace hybridattn::engine {

Status embed(Context& context, const ConstTensorView& table, std::span<const std::int32_t> ids,
             const std::int32_t* device_ids, const TensorView& out) {
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < 0 || ids[t] >= table.dim(0)) {
      return error(StatusCode::kOutOfRange, "embed: id ", ids[t], " at position ", t,
                   ", must be in [0, ", table.dim(0), ")");
    }
  }
  if (context.device() == DeviceType::kCuda) return cuda::embed(context, table, device_ids, out);
  cpu::embed(context, table, ids, out);
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
