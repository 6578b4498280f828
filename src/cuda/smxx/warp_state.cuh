// Rows of one head's state in the registers of a warp, and one step of the delta rule over them.
#pragma once

#include "hybridattn/ops/l2norm.h"
#include "src/cuda/element.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {

/// Sums N values over groups of `Lanes` lanes at once: N / 2 + N / 4 + ... + 1 shuffles and
/// log2(Lanes / N) more, in place of N log2(Lanes). Each lane is left with the sum of one value,
/// `owned`. The order of additions is that of sum_lanes, whatever N is.
template <int N, int Lanes>
struct Fold {
  static_assert(N <= Lanes && (N & (N - 1)) == 0);

  static constexpr int kSteps = N == 1 ? 0 : N == 2 ? 1 : N == 4 ? 2 : N == 8 ? 3 : N == 16 ? 4 : 5;
  static_assert(1 << kSteps == N);

  __device__ static float sum(float (&x)[N]) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int offset = (Lanes / 2) >> step;
      const int half = (N / 2) >> step;
      const bool upper = (threadIdx.x & offset) != 0;
#pragma unroll
      for (int j = 0; j < N / 2; ++j) {
        if (j >= half) continue;
        const float mine = upper ? x[j + half] : x[j];
        const float other = upper ? x[j] : x[j + half];
        x[j] = mine + __shfl_xor_sync(kAllLanes, other, offset);
      }
    }
    return sum_lanes<(Lanes >> kSteps)>(x[0]);
  }
  /// Which value a lane has the sum of.
  __device__ static int owned(int lane) {
    int value = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if ((lane & ((Lanes / 2) >> step)) != 0) value += (N / 2) >> step;
    }
    return value;
  }
  /// A lane of the group of `lane` that owns value `i`.
  __device__ static int owner(int lane, int i) {
    int from = lane & ~(Lanes - 1);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if ((i & ((N / 2) >> step)) != 0) from += (Lanes / 2) >> step;
    }
    return from;
  }
  /// One lane of those that own the same value.
  __device__ static bool speaks(int lane) { return (lane & (Lanes / N - 1)) == 0; }
};

/// `Rows` rows of a state [V][K] of elements T, spread so that each load is 16 bytes a lane. Stores
/// pass through the cache as streams: the states of a model's layers are many times its size, and
/// none is needed again before all others. Loads that do so gain less than they lose.
template <class T, int K, int Rows>
struct WarpState {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kLanes = K / kVector;   // lanes of one row
  static constexpr int kAtOnce = 32 / kLanes;  // rows of one load
  static constexpr int kLoads = Rows / kAtOnce;
  static_assert(kLoads * kAtOnce == Rows);
  using Sums = Fold<kLoads, kLanes>;

  float s[kLoads][kVector];

  /// The row, of the warp's, that load i of a lane belongs to; the first channel that a lane holds.
  __device__ static int row(int lane, int i) { return i * kAtOnce + lane / kLanes; }
  __device__ static int channel(int lane) { return (lane % kLanes) * kVector; }

  /// What a warp's load brings, before it is needed as numbers: the loads of `fetch` are in flight
  /// until `unpack`.
  struct Raw {
    uint4 words[kLoads];
  };
  /// `base` = the warp's first row.
  __device__ static void fetch(const T* base, std::int64_t row_stride, int lane, Raw& raw) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      raw.words[i] =
          *reinterpret_cast<const uint4*>(base + row(lane, i) * row_stride + channel(lane));
    }
  }
  __device__ void unpack(const Raw& raw) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const T* elements = reinterpret_cast<const T*>(&raw.words[i]);
#pragma unroll
      for (int e = 0; e < kVector; ++e) s[i][e] = to_float(elements[e]);
    }
  }
  __device__ void store(T* base, std::int64_t row_stride, int lane) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      uint4 raw;
      T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
      for (int e = 0; e < kVector; ++e) elements[e] = from_float<T>(s[i][e]);
      __stcs(reinterpret_cast<uint4*>(base + row(lane, i) * row_stride + channel(lane)), raw);
    }
  }
  /// To what `store` left.
  __device__ void round() {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) s[i][e] = to_float(from_float<T>(s[i][e]));
    }
  }

  /// q times `scale`, and both normalised where `normalize` says so: the lane's channels of a head.
  __device__ static void scale_heads(float (&q)[kVector], float (&k)[kVector], float scale,
                                     bool normalize) {
    float q_factor = scale, k_factor = 1.0f;
    if (normalize) {
      float q_squares = 0.0f, k_squares = 0.0f;
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        q_squares = fmaf(q[e], q[e], q_squares);
        k_squares = fmaf(k[e], k[e], k_squares);
      }
      q_factor = scale * inverse_root(sum_lanes<kLanes>(q_squares) + kL2NormEpsilon);
      k_factor = inverse_root(sum_lanes<kLanes>(k_squares) + kL2NormEpsilon);
    }
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      q[e] *= q_factor;
      k[e] *= k_factor;
    }
  }
  /// S <- S diag(decay); u = beta (v - S k); S <- S + u k^T; o = S q. `q` and `k` are the lane's
  /// channels, `v` and `o` the warp's rows in shared memory.
  __device__ void step(const float (&q)[kVector], const float (&k)[kVector],
                       const float (&decay)[kVector], float beta, const float* v, float* o,
                       int lane) {
    float sums[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      sums[i] = 0.0f;
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        s[i][e] *= decay[e];
        sums[i] = fmaf(s[i][e], k[e], sums[i]);
      }
    }
    const float recalled = Sums::sum(sums);
    const int mine = row(lane, Sums::owned(lane));
    const float u = beta * (v[mine] - recalled);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const float update = __shfl_sync(kAllLanes, u, Sums::owner(lane, i));
      sums[i] = 0.0f;
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        s[i][e] = fmaf(update, k[e], s[i][e]);
        sums[i] = fmaf(s[i][e], q[e], sums[i]);
      }
    }
    const float out = Sums::sum(sums);
    if (Sums::speaks(lane)) o[mine] = out;
  }
};

}  // namespace hybridattn::cuda
