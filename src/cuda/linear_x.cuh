// What products of few rows do to x before it enters: half of a norm, whose other half divides the
// sums. x comes past the first-level cache: blocks that stand beside those of kernels before have
// no line of theirs to find there.
#pragma once

#include "src/cuda/mma.cuh"

namespace hybridattn::cuda {

/// Eight elements past the first-level cache.
__device__ inline void load_eight(const float* from, float4 (&x)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) x[i] = __ldcg(reinterpret_cast<const float4*>(from) + i);
}
/// Eight that no kernel writes.
__device__ inline void load_constants(const float* from, float4 (&x)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) x[i] = __ldg(reinterpret_cast<const float4*>(from) + i);
}
/// sum + their squares.
__device__ inline float add_squares(const float4 (&x)[2], float sum) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum =
        fmaf(x[i].x, x[i].x, fmaf(x[i].y, x[i].y, fmaf(x[i].z, x[i].z, fmaf(x[i].w, x[i].w, sum))));
  }
  return sum;
}
/// x (1 + weight), rounded.
__device__ inline uint4 weigh(const float4 (&x)[2], const float4 (&weight)[2]) {
  std::uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 &a = x[i], &w = weight[i];
    pairs[2 * i] = pack<__nv_bfloat16>(fmaf(a.x, w.x, a.x), fmaf(a.y, w.y, a.y));
    pairs[2 * i + 1] = pack<__nv_bfloat16>(fmaf(a.z, w.z, a.z), fmaf(a.w, w.w, a.w));
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

}  // namespace hybridattn::cuda
