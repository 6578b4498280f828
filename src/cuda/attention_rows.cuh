// Rows of softmax attention in device code: which keys a query sees and where they lie.
#pragma once

#include "src/cuda/element.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/mma.cuh"
#include "src/ops/attention_params.h"

namespace hybridattn::cuda {

/// Division of numbers below 2^31 by one that is known when the kernel is launched.
class Divider {
 public:
  Divider() = default;
  explicit Divider(std::uint32_t divisor) : divisor_(divisor) {
    while ((std::uint64_t{1} << shift_) < divisor) ++shift_;
    const std::uint64_t excess = (std::uint64_t{1} << shift_) - divisor;
    factor_ = static_cast<std::uint32_t>((excess << 32) / divisor + 1);
  }
  __device__ int quotient(int n) const {
    const auto x = static_cast<std::uint32_t>(n);
    return static_cast<int>((__umulhi(x, factor_) + x) >> shift_);
  }
  __host__ __device__ int divisor() const { return static_cast<int>(divisor_); }

 private:
  std::uint32_t divisor_ = 1, factor_ = 1;
  int shift_ = 0;
};

/// Of a call, what all kernels read.
struct AttentionCall {
  View q, k, v, out, lse, gate;  // lse, gate: optional
  const float* sinks;            // optional
  ops::AttentionTables tables;
  Divider group, page_size;
  std::int64_t cache_pages;  // dense: keys
  int heads, kv_heads, window;
  bool causal;
  float scale;  // on q.k as the cache holds k
  float cap;    // 0: none
  float v_scale;
  const float *k_scales, *v_scales;  // [kv_heads], where each has its own beside those above

  __device__ float k_scale_of(int kv_head) const {
    return k_scales == nullptr ? 1.0f : k_scales[kv_head];
  }
};

/// Of kernels over tiles.
struct AttentionTileParams {
  AttentionCall call;
  // Of a tile whose keys went to several blocks: sums of values, largest log2 logit and sum of
  // weights of each.
  float* part_out;           // [kv_heads][part_rows][D]
  float2* part_top;          // [kv_heads][part_rows]
  bool gate_behind = false;  // all gates, whatever wrote the outputs
};

/// Before a tile of few rows or of many reads what other kernels write. Where there are both, the
/// kernel over those of many follows that over those of few, which begins it only when what both
/// read is written: it need not wait to begin, only to end.
template <bool Few>
__device__ void begin_tile(const AttentionTileParams& p) {
  const bool both = p.call.tables.num_few > 0 && p.call.tables.num_many > 0;
  if (Few && both) wait_for_writers();
  let_next_begin();
  if (!both) wait_for_writers();
}
/// Last thing in a kernel over tiles: a block may have had none.
__device__ inline void end_tiles() {
  wait_for_writers();
  let_next_begin();
}

inline AttentionCall attention_call(const ops::AttentionParams& p) {
  AttentionCall call;
  call.q = View(p.q);
  call.k = View(p.k);
  call.v = View(p.v);
  call.out = View(p.out);
  call.lse = p.lse.empty() ? View() : View(p.lse);
  call.gate = p.gate.empty() ? View() : View(p.gate);
  call.sinks = static_cast<const float*>(p.sinks.data);
  call.tables = *p.tables;
  call.group = Divider(static_cast<std::uint32_t>(p.group));
  call.page_size = Divider(static_cast<std::uint32_t>(p.k.dim(1)));
  call.cache_pages = p.k.dim(0);
  call.heads = static_cast<int>(p.q.dim(1));
  call.kv_heads = static_cast<int>(p.k.dim(2));
  call.window = p.options.window;
  call.causal = p.options.causal;
  call.scale = p.options.scale * p.options.k_scale;
  call.cap = p.options.logit_cap;
  call.v_scale = p.options.v_scale;
  call.k_scales = p.k_scale.each;
  call.v_scales = p.v_scale.each;
  return call;
}

/// The keys that a query sees: [begin, end), of the row's new ones in a tree those on its path.
struct Sight {
  int begin = 0, end = 0;
  int first_new = 0x7fffffff;  // only of a tree
  std::uint64_t path = 0;

  __device__ bool sees(int key) const { return key >= begin && key < end && on_path(key); }
  __device__ bool on_path(int key) const {
    return key < first_new || (path >> (key - first_new) & 1) != 0;
  }
};

/// A row's lengths and first token.
struct RowSpan {
  int q_start, length, keys;
};

__device__ inline Sight sight_of(const AttentionCall& call, const RowSpan& row, int query) {
  const int length = row.length, keys = row.keys;
  const core::KeyRange seen = core::visible_keys(query, length, keys, call.causal, call.window);
  Sight sight;
  sight.begin = static_cast<int>(seen.begin);
  sight.end = static_cast<int>(seen.end);
  if (call.tables.parents == nullptr) return sight;
  const int* parents = call.tables.parents + row.q_start;
  if (parents[0] == kChain) return sight;
  int depth = 0;
  for (int i = query; i >= 0; i = parents[i]) {
    if (call.window < 0 || depth < call.window) sight.path |= std::uint64_t{1} << i;
    ++depth;
  }
  sight.first_new = keys - length;
  sight.begin = call.window > 0 ? max(0, sight.first_new + depth - call.window) : 0;
  return sight;
}

/// The row that query `index` of all belongs to.
__device__ inline int row_of_query(const ops::AttentionTables& tables, int index) {
  int low = 0, high = tables.rows - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (tables.first_query[middle] <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// The page that key `key` of a row lies in, or for dense keys its place. `first`: the row's
/// kv_start.
__device__ inline std::int64_t page_of(const AttentionCall& call, std::int64_t first, int key) {
  if (call.tables.pages == nullptr) return first + key;
  return call.tables.pages[first + call.page_size.quotient(key)];
}

__device__ inline int place_in_page(const AttentionCall& call, int key) {
  return key - call.page_size.quotient(key) * call.page_size.divisor();
}

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

/// A capped logit times log2(e): cap tanh(logit / cap), off by at most a few 2^-24 of cap.
__device__ inline float capped_log2(float cap, float logit) {
  const float squared = power_of_two(logit * (2.0f * kLog2E / cap));  // e^(2 logit / cap)
  return cap * kLog2E * (1.0f - __fdividef(2.0f, 1.0f + squared));
}

/// What finishes a query: its sum times `factor` is the output.
struct Finish {
  float factor, lse;
};

/// `top`, `sum`: the largest log2 logit and the sum of weights relative to it; no weight at all is
/// a query that sees nothing.
__device__ inline Finish finish_query(const AttentionCall& call, int head, float top, float sum) {
  if (sum == 0.0f) return {0.0f, -INFINITY};
  float reach = 1.0f;
  if (call.sinks != nullptr) {
    const float sink = call.sinks[head] * kLog2E;
    const float higher = fmaxf(top, sink);
    reach = exp2f(top - higher);
    sum = sum * reach + exp2f(sink - higher);
    top = higher;
  }
  const float v_scale =
      call.v_scales == nullptr ? call.v_scale : call.v_scales[call.group.quotient(head)];
  return {reach / sum * v_scale, (top + log2f(sum)) * kLn2};
}

/// Four outputs of a query from dim `d` on, from its sums. Who writes dim 0 writes its lse.
template <class X>
__device__ inline void write_query(const AttentionCall& call, std::int64_t token, int head, int d,
                                   float4 sums, const Finish& finish) {
  const float f = finish.factor;
  const std::int64_t at = call.out.at(token, head, d);
  if (call.out.dtype == DType::kF32) {
    *reinterpret_cast<float4*>(call.out.as<float>() + at) =
        make_float4(sums.x * f, sums.y * f, sums.z * f, sums.w * f);
  } else {
    *reinterpret_cast<uint2*>(call.out.as<X>() + at) =
        make_uint2(pack<X>(sums.x * f, sums.y * f), pack<X>(sums.z * f, sums.w * f));
  }
  if (d == 0 && call.lse.data != nullptr) {
    call.lse.as<float>()[call.lse.at(token, head)] = finish.lse;
  }
}

/// The same, times the sigmoids of the query's gates, which are in X or f32; not read of one that
/// sees nothing.
template <class X>
__device__ inline void write_gated(const AttentionCall& call, std::int64_t token, int head, int d,
                                   float4 sums, const Finish& finish) {
  if (finish.lse != -INFINITY) {
    const std::int64_t at = call.gate.at(token, head, d);
    float2 low, high;
    if (call.gate.dtype == DType::kF32) {
      const float4 gate = *reinterpret_cast<const float4*>(call.gate.as<const float>() + at);
      low = make_float2(gate.x, gate.y);
      high = make_float2(gate.z, gate.w);
    } else {
      const uint2 pairs = *reinterpret_cast<const uint2*>(call.gate.as<const X>() + at);
      low = unpack<X>(pairs.x);
      high = unpack<X>(pairs.y);
    }
    sums = make_float4(sums.x * sigmoid(low.x), sums.y * sigmoid(low.y), sums.z * sigmoid(high.x),
                       sums.w * sigmoid(high.y));
  }
  write_query<X>(call, token, head, d, sums, finish);
}

}  // namespace hybridattn::cuda
