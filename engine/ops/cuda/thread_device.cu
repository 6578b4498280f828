#include <cuda_runtime.h>

#include "engine/ops/cuda/kernels.h"

namespace hybridattn::engine::cuda {

ThreadDevice::ThreadDevice(const ContextOptions& options) {
  int current = 0;
  if (options.device != DeviceType::kCuda || cudaGetDevice(&current) != cudaSuccess) return;
  if (current == options.device_index) return;
  // A device that cannot be had shows at the first call that needs it.
  if (cudaSetDevice(options.device_index) == cudaSuccess) before_ = current;
}

ThreadDevice::~ThreadDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace hybridattn::engine::cuda
