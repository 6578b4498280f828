// What rms_norm, rotary and store_kv do to the elements of a row: each op alone, and all of them in
// qk_norm_rope_store. N elements at a time.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/row_elements.cuh"

namespace hybridattn::cuda {

/// The squares of this lane's elements of a row that `lanes` share.
template <int N>
__device__ inline float sum_squares(const RowElements& x, std::int64_t dim, int lane, int lanes) {
  float squares = 0.0f;
#pragma unroll 1
  for (std::int64_t d = lane * N; d < dim; d += lanes * N) {
    float values[N];
    load_elements(x, d, values);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(values[i], values[i], squares);
  }
  return squares;
}

/// What each element of a row is multiplied with, from the sum of its squares.
__device__ inline float rms_factor(float squares, std::int64_t dim, float epsilon) {
  return inverse_root(quotient(squares, static_cast<float>(dim)) + epsilon);
}

/// x * factor * (weight + offset), elements from `first` on.
template <int N>
__device__ inline void scale_by_weight(float (&x)[N], float factor, const RowElements& weight,
                                       float offset, std::int64_t first) {
  float w[N];
  load_elements(weight, first, w);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = x[i] * factor * (w[i] + offset);
}

/// Rotates pairs by the angles from `first` on.
template <int N>
__device__ inline void rotate(float (&lower)[N], float (&upper)[N], const RowElements& cos,
                              const RowElements& sin, std::int64_t first) {
  float c[N], s[N];
  load_elements(cos, first, c);
  load_elements(sin, first, s);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = lower[i];
    lower[i] = fmaf(-upper[i], s[i], x * c[i]);
    upper[i] = fmaf(x, s[i], upper[i] * c[i]);
  }
}

/// x / scale to a cache. A quotient, which is not x times a rounded reciprocal.
template <int N>
__device__ inline void store_scaled(const RowElements& place, std::int64_t first,
                                    const float (&x)[N], float scale) {
  if (scale == 1.0f) return store_elements(place, first, x);
  float scaled[N];
#pragma unroll
  for (int i = 0; i < N; ++i) scaled[i] = __fdiv_rn(x[i], scale);
  store_elements(place, first, scaled);
}

/// The place of a head in a cache: `slot` = page * page_size + offset.
__device__ inline RowElements place_of(const View& cache, std::int64_t slot, std::int64_t page_size,
                                       std::int64_t head) {
  const Split at = split(slot, page_size);
  return row_of(cache, at.whole, at.rest, head);
}

}  // namespace hybridattn::cuda
