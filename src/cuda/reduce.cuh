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

/// The sum over a block of `Warps` warps, in all threads. `partial`: [Warps] in shared memory, free
/// again behind the next barrier.
template <int Warps>
__device__ inline float sum_block(float value, float* partial) {
  const float own = sum_lanes(value);
  __syncthreads();  // what the sum before left has been read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = own;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < Warps; ++w) sum += partial[w];
  return sum;
}

}  // namespace hybridattn::cuda
