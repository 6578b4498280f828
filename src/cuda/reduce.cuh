// Sums over the lanes of a warp, always in the same order.
#pragma once

namespace hybridattn::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// The sum over groups of `Lanes` neighbouring lanes, in all of them.
template <int Lanes = 32>
__device__ inline float sum_lanes(float value) {
#pragma unroll
  for (int offset = Lanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

}  // namespace hybridattn::cuda
