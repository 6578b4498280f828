#include "engine/ops/cuda/kernels.h"
#include "engine/ops/cuda/launch.cuh"

namespace hybridattn::engine::cuda {

Status zero(Context& context, void* data, std::size_t bytes) {
  return check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(context.stream())),
               "zero");
}

}  // namespace hybridattn::engine::cuda
