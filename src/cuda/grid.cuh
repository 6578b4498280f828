// Launch shapes of kernels over one flat range.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/core/kernel.h"
#include "src/cuda/check.h"

namespace hybridattn::cuda {

/// This thread's indices of [0, count): first, first + step, ... The grid may be smaller than the
/// range.
__device__ inline std::int64_t flat_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t flat_step() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

/// Blocks for `count` units of which a block does `each`: enough to fill the card some times over.
inline unsigned grid_for(std::int64_t count, std::int64_t each, const core::DeviceInfo& info) {
  const std::int64_t blocks = (count + each - 1) / each;
  return static_cast<unsigned>(
      std::clamp<std::int64_t>(blocks, 1, std::int64_t{info.num_sms} * 64));
}

inline cudaStream_t stream_of(const core::DeviceLaunch& launch) {
  return static_cast<cudaStream_t>(launch.stream);
}

}  // namespace hybridattn::cuda
