// The decays inside a chunk. Running sums are kept over log(2) and in two floats, so that their
// differences are as exact as the log decays themselves.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/mma.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {

/// The log decays and betas of a lane's two tokens of a chunk, 2 lane and the next: 0 past the row.
struct LaneGates {
  float g[2], beta[2];

  __device__ LaneGates(const ChunkParams& p, std::int64_t first, int count, int head) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 2 * lane + i;
      g[i] = beta[i] = 0.0f;
      if (token < count) {
        g[i] = p.log_decay.as<const float>()[p.log_decay.at(first + token, head)];
        beta[i] = p.beta.as<const float>()[p.beta.at(first + token, head)];
      }
    }
  }
};

/// The running sum of the log decays of a chunk, by one warp. Each is cut at a multiple of 2^-10:
/// the sums of what is before the cut are exact in float, those of the rest are under 2^-4. Below
/// 2^-256 a factor is zero in float, so no more is summed.
__device__ inline void sum_decays(const LaneGates& gates, float (&sum_high)[kChunk],
                                  float (&sum_low)[kChunk]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr float kPerLog2 = 1.44269504f;
  constexpr float kCut = 1.5f * (1 << 13);  // floats around it are multiples of 2^-10
  float high[2], low[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float x = fmaxf(clamp_log_decay(gates.g[i]) * kPerLog2, -256.0f);
    high[i] = __fadd_rn(__fadd_rn(x, kCut), -kCut);
    low[i] = x - high[i];
  }
  high[1] += high[0];
  low[1] += low[0];
  float high_before = high[1], low_before = low[1];
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const float other_high = __shfl_up_sync(kAllLanes, high_before, offset);
    const float other_low = __shfl_up_sync(kAllLanes, low_before, offset);
    if (lane >= offset) {
      high_before += other_high;
      low_before += other_low;
    }
  }
  high_before -= high[1];
  low_before -= low[1];
  *reinterpret_cast<float2*>(&sum_high[2 * lane]) =
      make_float2(high_before + high[0], high_before + high[1]);
  *reinterpret_cast<float2*>(&sum_low[2 * lane]) =
      make_float2(low_before + low[0], low_before + low[1]);
}

}  // namespace hybridattn::cuda
