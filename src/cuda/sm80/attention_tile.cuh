// A warp's share of a tile of softmax attention: 16 query rows against a few keys in shared memory.
#pragma once

#include <type_traits>

#include <cuda_fp8.h>

#include "src/cuda/attention_weights.cuh"

namespace hybridattn::cuda {

/// Two numbers in f8_e4m3, the low half of `two`, as two in f16: exact.
__device__ inline std::uint32_t widen(std::uint32_t two) {
  const __half2_raw raw =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two & 0xffffu), __NV_E4M3);
  return static_cast<std::uint32_t>(raw.x) | static_cast<std::uint32_t>(raw.y) << 16;
}

/// Rows of keys or values in shared memory: 16-byte pieces, in an order by row that lets 8 rows be
/// read at once without a conflict of banks.
template <int RowBytes>
__device__ inline std::uint32_t piece_at(int row, int piece) {
  constexpr int kPieces = RowBytes / 16;
  const int turned = kPieces >= 8 ? piece ^ (row & 7) : piece ^ (row >> 1 & 3);
  return static_cast<std::uint32_t>(row * RowBytes + turned * 16);
}

/// X: what is multiplied, f16 where keys and values are in f8_e4m3 (KV = std::uint8_t), otherwise
/// their type. `Keys`: of one step.
template <class X, class KV, int D, int Keys>
class AttentionWarp {
 public:
  static constexpr bool kF8 = sizeof(KV) == 1;
  static constexpr int kRowBytes = D * static_cast<int>(sizeof(KV));

  /// `q`: shared memory with the warp's 16 query rows, in pieces as piece_at<2 D> has them. With
  /// keys in f8 the dims of each 16 stand as 0 1 4 5 8 9 12 13 2 3 6 7 10 11 14 15: a lane then
  /// takes four neighbours of a key, which are one word. `sight`, `unit`: of rows g and g + 8, what
  /// they see and what one in `q` stands for.
  __device__ AttentionWarp(std::uint32_t q, const Sight (&sight)[2], const float (&unit)[2])
      : weights(sight), q_(q), unit_{unit[0], unit[1]} {}

  /// Weights of keys [first, first + Keys) into zeros, as fragments of 8 keys each. What no row
  /// sees may hold anything finite. `sight`: a function of 0 or 1, again what rows g and g + 8 see.
  template <class RowSight>
  __device__ void weigh_keys(const AttentionCall& call, const RowSight& sight, std::uint32_t keys,
                             int first, float (&s)[Keys / 2]) {
    multiply_keys(keys, s);
    float fade[2];
    weights.weigh(call, sight, first, unit_, s, fade);
    fade_sums(out, fade);
  }

  /// Adds values by the weights of their keys.
  __device__ void add_values(std::uint32_t values, const float (&s)[Keys / 2]) {
    // One fragment serves 16 dims, in f8 32: each is read some steps before it is multiplied.
    constexpr int kSteps = D / (kF8 ? 32 : 16), kAll = kSteps * (Keys / 16);
    std::uint32_t b[kRead + 1][4];
    const auto read = [&](int i) {
      const int keys = 16 * (i / kSteps) + static_cast<int>(threadIdx.x) % 16;
      const int piece = 2 * (i % kSteps) + static_cast<int>(threadIdx.x) % 32 / 16;
      load_transposed(b[i % (kRead + 1)], values + piece_at<kRowBytes>(keys, piece));
    };
#pragma unroll
    for (int i = 0; i < kRead && i < kAll; ++i) read(i);
    std::uint32_t a[4];
#pragma unroll
    for (int i = 0; i < kAll; ++i) {
      if (i % kSteps == 0) as_operand<X>(s, 8 * (i / kSteps), a);
      if (i + kRead < kAll) read(i + kRead);
      multiply_values(a, b[i % (kRead + 1)], i % kSteps);
    }
  }

  /// Writes the sums of values times a factor of each row: floats [16][pitch] at `to`.
  __device__ void spread(float* to, int pitch, const float (&factor)[2]) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* row = to + (g + 8 * half) * pitch;
      const float f = factor[half];
      if constexpr (kF8) {
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
          const int i = 4 * j + 2 * half;
          *reinterpret_cast<float4*>(row + 8 * j + 4 * t) =
              make_float4(out[i] * f, out[i + 4] * f, out[i + 1] * f, out[i + 5] * f);
        }
      } else {
#pragma unroll
        for (int j = 0; j < D / 8; ++j) {
          const int i = 4 * j + 2 * half;
          *reinterpret_cast<float2*>(row + 8 * j + 2 * t) = make_float2(out[i] * f, out[i + 1] * f);
        }
      }
    }
  }

  RowWeights weights;
  /// Sums of values as fragments. With values in f8 the columns of two neighbours are the even and
  /// the odd dims of 16.
  float out[D / 2] = {};

 private:
  static constexpr int kRead = 2;  // fragments that are read ahead

  __device__ void multiply_values(const std::uint32_t (&a)[4], const std::uint32_t (&b)[4],
                                  int step) {
    if constexpr (kF8) {
      // Matrices: keys 0-7 and 8-15 of 16 dims, the same of the next 16. Transposed, a lane has two
      // keys of two neighbouring dims in a word.
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::uint32_t low = __byte_perm(b[2 * i], 0, 0x3120);
        const std::uint32_t high = __byte_perm(b[2 * i + 1], 0, 0x3120);
        multiply_add<X>(out + 4 * (4 * step + 2 * i), a, widen(low), widen(high));
        multiply_add<X>(out + 4 * (4 * step + 2 * i + 1), a, widen(low >> 16), widen(high >> 16));
      }
    } else {
      multiply_add<X>(out + 8 * step, a, b[0], b[1]);
      multiply_add<X>(out + 8 * step + 4, a, b[2], b[3]);
    }
  }

  __device__ void multiply_keys(std::uint32_t keys, float (&s)[Keys / 2]) const {
    const int lane = threadIdx.x % 32;
    constexpr int kGroups = Keys / 16;    // of 16 keys
    constexpr int kDims = kF8 ? 32 : 16;  // of a step
    constexpr int kSteps = D / kDims;
    std::uint32_t a[kRead + 1][kDims / 16][4], b[kRead + 1][kGroups][4];
    const auto read = [&](int step) {
      const int at = step % (kRead + 1);
#pragma unroll
      for (int i = 0; i < kDims / 16; ++i) {
        const int piece = 2 * (kDims / 16 * step + i) + lane / 16;
        load_matrices(a[at][i], q_ + piece_at<2 * D>(lane % 16, piece));
      }
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        // In f8 the matrices are keys 0-7 and 8-15 of 16 dims and the same of the next 16;
        // otherwise keys 0-7 with dims 0-7 and 8-15, then keys 8-15.
        const int key = 16 * n + (kF8 ? lane % 16 : lane % 8 + lane / 16 * 8);
        const int piece = 2 * step + (kF8 ? lane / 16 : lane / 8 % 2);
        load_matrices(b[at][n], keys + piece_at<kRowBytes>(key, piece));
      }
    };
    // Two sums where there are few, that one need not wait for the other.
    float odd[Keys / 2] = {};
#pragma unroll
    for (int step = 0; step < kRead && step < kSteps; ++step) read(step);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step + kRead < kSteps) read(step + kRead);
      const int at = step % (kRead + 1);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        const std::uint32_t(&x)[4] = b[at][n];
        if constexpr (kF8) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            multiply_add<X>(s + 4 * (2 * n + i % 2), a[at][i / 2], widen(x[i]), widen(x[i] >> 16));
          }
        } else {
          float* sum = kGroups == 1 && step % 2 == 1 ? odd : s;
          multiply_add<X>(sum + 8 * n, a[at][0], x[0], x[1]);
          multiply_add<X>(sum + 8 * n + 4, a[at][0], x[2], x[3]);
        }
      }
    }
    if constexpr (kGroups == 1) {
#pragma unroll
      for (int i = 0; i < Keys / 2; ++i) s[i] += odd[i];
    }
  }

  std::uint32_t q_;
  float unit_[2];
};

}  // namespace hybridattn::cuda
