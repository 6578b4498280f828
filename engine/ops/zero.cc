#include "engine/ops/zero.h"

#include <cstring>

#include "engine/ops/cuda/kernels.h"
#include "hybridattn/graph.h"

namespace hybridattn::engine {

Status zero(Context& context, const TensorView& x) {
  if (x.num_elements() == 0) return {};
  return run_or_record(context, "zero", [&context, x]() -> Status {
    const auto bytes = static_cast<std::size_t>(x.num_elements()) * dtype_size(x.dtype);
    if (context.device() == DeviceType::kCuda) return cuda::zero(context, x.data, bytes);
    std::memset(x.data, 0, bytes);
    return {};
  });
}

}  // namespace hybridattn::engine
