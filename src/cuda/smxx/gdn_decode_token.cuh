// What the fused kernels do with one token of a head before and after its step.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/smxx/gdn_decode.cuh"

namespace hybridattn::cuda {

/// exp(g) of a head or of one of its channels.
template <class X>
__device__ inline float decay_of(const DecodeParams& p, std::int64_t token, int head, int channel) {
  const float a = to_float(p.a.as<const X>()[p.a.at(token, head, channel)]);
  const float x = a + load(p.dt_bias, p.dt_bias.at(head, channel));
  return decay_factor(load(p.a_log, p.a_log.at(head)), x);
}

template <class X>
__device__ inline float beta_of(const DecodeParams& p, std::int64_t token, int head) {
  return p.beta_factor * sigmoid(to_float(p.b.as<const X>()[p.b.at(token, head)]));
}

/// A lane's share of a head's q, k and decays, which lie in shared memory: q and k normalised and
/// scaled, a decay for each channel or one for all.
template <class State, int K>
__device__ inline void load_head(const DecodeParams& p, const float* qk, const float* decays,
                                 int lane, float (&q)[State::kVector], float (&k)[State::kVector],
                                 float (&decay)[State::kVector]) {
#pragma unroll
  for (int e = 0; e < State::kVector; ++e) {
    q[e] = qk[State::channel(lane) + e];
    k[e] = qk[K + State::channel(lane) + e];
    decay[e] = decays[p.channel_decay ? State::channel(lane) + e : 0];
  }
  State::scale_heads(q, k, p.scale, true);
}

/// What the norm multiplies a head's outputs by. Each warp adds all squares, in one order.
template <int V>
__device__ inline float norm_factor(const DecodeParams& p, const float* o, int lane) {
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < V / 32; ++i) squares = fmaf(o[i * 32 + lane], o[i * 32 + lane], squares);
  return inverse_root(sum_lanes(squares) * (1.0f / V) + p.epsilon);
}
__device__ inline float normed(const DecodeParams& p, float o, float factor, float weight,
                               float z) {
  const float gate = p.sigmoid_gate ? sigmoid(z) : silu(z);
  return o * factor * weight * gate;
}

}  // namespace hybridattn::cuda
