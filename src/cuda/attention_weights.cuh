// Softmax over keys that come tile by tile, on the fragments of matrix instructions.
#pragma once

#include "src/cuda/attention_rows.cuh"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {

/// A lane's two query rows, g and g + 8 of its warp's 16.
class RowWeights {
 public:
  /// `sight`: what the two rows see.
  __device__ explicit RowWeights(const Sight (&sight)[2]) {
    // Tiles between these are seen whole by all rows of the warp.
    new_begin_ = sight[0].first_new;  // of all rows of a tile
    int begin = max(sight[0].begin, sight[1].begin);
    int end = min(min(sight[0].end, sight[1].end), new_begin_);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      begin = max(begin, __shfl_xor_sync(kAllLanes, begin, offset));
      end = min(end, __shfl_xor_sync(kAllLanes, end, offset));
    }
    whole_begin_ = begin;
    whole_end_ = end;
  }

  /// Products of queries with N / 4 * 8 keys from `first` on into weights relative to the largest
  /// logit so far. `sight`: a function of 0 or 1, again what that row sees. `unit`: what a product
  /// of each row is to be multiplied with. Sums of earlier keys are to be multiplied with `fade`.
  template <class RowSight, int N>
  __device__ void weigh(const AttentionCall& call, const RowSight& sight, int first,
                        const float (&unit)[2], float (&s)[N], float (&fade)[2]) {
    float by[2] = {call.scale * unit[0] * kLog2E, call.scale * unit[1] * kLog2E};
    if (call.cap != 0.0f || !(fminf(by[0], by[1]) > kLeastFactor)) finish_logits(call, s, by);
    if (first < whole_begin_ || first + 2 * N > whole_end_) hide(sight, first, s);
    float highest[2] = {s[0], s[2]};
#pragma unroll
    for (int i = 0; i < N; ++i) highest[i % 4 / 2] = fmaxf(highest[i % 4 / 2], s[i]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], 1));
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], 2));
      highest[half] = fmaxf(top[half], highest[half] * by[half]);
    }
    if (fmaxf(fabsf(highest[0]), fabsf(highest[1])) > kMostLogit) {
      // Each row by itself: what the other sees is not to show in its bits. -inf: it sees nothing.
      multiply(s, by, [&](int half) {
        return fabsf(highest[half]) > kMostLogit && highest[half] > -INFINITY;
      });
    }
    float zero[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      zero[half] = highest[half] == -INFINITY ? 0.0f : highest[half];
      fade[half] = power_of_two(top[half] - zero[half]);
      top[half] = highest[half];
      sum[half] *= fade[half];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      s[i] = power_of_two(fmaf(s[i], by[i % 4 / 2], -zero[i % 4 / 2]));
      sum[i % 4 / 2] += s[i];
    }
  }

  /// Adds up the lanes' sums of weights.
  __device__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 1);
      sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 2);
    }
  }

  float top[2] = {-INFINITY, -INFINITY};  // the largest log2 logit
  float sum[2] = {0.0f, 0.0f};            // and the sum of weights, a lane's share until finish

 private:
  // A weight is 2^(product * factor - highest): one operation, whose product is not rounded. It is
  // not to differ from that of `highest` by much, nor a factor to be zero where a product is
  // infinite.
  static constexpr float kLeastFactor = 1e-30f, kMostLogit = 1 << 22;

  /// Products into logits times log2(e), which then need no factor: where the largest product is
  /// not the largest logit, or a cap stands between them.
  template <int N>
  __device__ static void finish_logits(const AttentionCall& call, float (&s)[N], float (&by)[2]) {
    multiply(s, by, [&](int half) { return call.cap != 0.0f || !(by[half] > kLeastFactor); });
    if (call.cap == 0.0f) return;
#pragma unroll
    for (int i = 0; i < N; ++i) s[i] = capped_log2(call.cap, s[i] * kLn2);
  }
  /// `wanted`: says of a half, 0 or 1, whether it is to be.
  template <int N, class Wanted>
  __device__ static void multiply(float (&s)[N], float (&by)[2], const Wanted& wanted) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!wanted(half)) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (i % 4 / 2 == half) s[i] *= by[half];
      }
      by[half] = 1.0f;
    }
  }

  /// Takes out keys that are not seen.
  template <class RowSight, int N>
  __device__ void hide(const RowSight& sight_of_row, int first, float (&s)[N]) const {
    const int key = first + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Sight sight = sight_of_row(half);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int at = i / 4 * 8 + i % 2;
        if (i % 4 / 2 == half && (at < sight.begin - key || at >= sight.end - key)) {
          s[i] = -INFINITY;
        }
      }
      if (first + 2 * N <= new_begin_) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (i % 4 / 2 == half && !sight.on_path(key + i / 4 * 8 + i % 2)) s[i] = -INFINITY;
      }
    }
  }

  int whole_begin_, whole_end_, new_begin_;
};

/// Sums of values of a lane's two rows, fragments of 8 dims each, fade where one of the warp does.
template <int N>
__device__ inline void fade_sums(float (&out)[N], const float (&fade)[2]) {
  if (!__any_sync(kAllLanes, fade[0] != 1.0f || fade[1] != 1.0f)) return;
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] *= fade[i % 4 / 2];
}

/// Weights of 16 keys, fragments of 8 each from s[at] on, as the left operand of a product.
template <class X, int N>
__device__ inline void as_operand(const float (&s)[N], int at, std::uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack<X>(s[at + 2 * i], s[at + 2 * i + 1]);
}

/// One query row's way out of a tile: to its outputs, or to its part.
template <class X, int D>
class RowWriter {
 public:
  /// `row`: of the tile.
  __device__ RowWriter(const AttentionTileParams& p, const ops::AttentionWork& work, int kv_head,
                       int row, float top, float sum)
      : p_(p) {
    const AttentionCall& call = p.call;
    const int query_row = work.first + row, group = call.group.divisor();
    there_ = query_row < work.q_length * group;
    if (!there_) return;
    if (work.part >= 0) {
      part_ = kv_head * call.tables.part_rows + std::int64_t{work.part} + row;
      edge_ = make_float2(top, sum);
      return;
    }
    const int token = call.group.quotient(query_row);
    head_ = kv_head * group + query_row - token * group;
    token_ = work.q_start + token;
    finish_ = finish_query(call, head_, top, sum);
  }

  /// Four sums from dim `d` on. Who writes dim 0 writes what goes with the row.
  __device__ void write(int d, float4 sums) const {
    if (!there_) return;
    if (part_ < 0) return write_query<X>(p_.call, token_, head_, d, sums, finish_);
    write_part(d, sums);
  }
  /// The same where the call has gates.
  __device__ void write_gated(int d, float4 sums) const {
    if (!there_) return;
    if (part_ < 0) return cuda::write_gated<X>(p_.call, token_, head_, d, sums, finish_);
    write_part(d, sums);
  }

 private:
  __device__ void write_part(int d, float4 sums) const {
    *reinterpret_cast<float4*>(p_.part_out + part_ * D + d) = sums;
    if (d == 0) p_.part_top[part_] = edge_;
  }

  const AttentionTileParams& p_;
  int head_ = 0;
  bool there_;
  std::int64_t part_ = -1, token_ = 0;
  Finish finish_{};
  float2 edge_{};
};

}  // namespace hybridattn::cuda
