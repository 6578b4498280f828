// What a task of attention works on, and where its results go.
#include <algorithm>
#include <cmath>
#include <limits>

#include "src/cpu/simd-inl.h"
#include "src/ops/attention_params.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_RESULTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_RESULTS_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_RESULTS_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_RESULTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Task {
  std::int32_t row;
  std::int64_t kv_head;
  std::int64_t first_query;  // within the row
};

/// Of the query rows of a task: sums of weighted values, not yet divided; the running maximum and
/// denominator.
struct Accumulated {
  std::int64_t rows, v_dim;
  std::int64_t stride;  // floats between rows of out
  float *out, *top, *sum;
};

/// out *= sigmoid(gate).
inline void open_gate(const ops::AttentionParams& p, std::int64_t token, std::int64_t head,
                      std::int64_t dim, float* out) {
  constexpr std::int64_t kPart = 64;
  float part[kPart];
  const std::byte* gates = row3(p.gate, token, head);
  for (std::int64_t first = 0; first < dim; first += kPart) {
    const std::byte* from = gates + first * static_cast<std::int64_t>(dtype_size(p.gate.dtype));
    const std::int64_t count = std::min(kPart, dim - first);
    const float* gate = row_f32(from, p.gate.dtype, count, part);
    for_vectors(count, [&](std::int64_t i, std::int64_t n) {
      float* at = out + first + i;
      store_part(hn::Mul(load_part(at, n), sigmoid(load_part(gate + i, n))), at, n);
    });
  }
}

inline void store_results(const ops::AttentionParams& p, const Task& task, const Accumulated& t) {
  for (std::int64_t m = 0; m < t.rows; ++m) {
    const std::int64_t token = p.rows.q_start[task.row] + task.first_query + m / p.group;
    const std::int64_t head = task.kv_head * p.group + m % p.group;
    float top = t.top[m];
    float sum = t.sum[m];
    float* out = t.out + m * t.stride;
    const bool blind = sum == 0;  // it sees no key: the result is nothing, whatever the sink
    if (!p.sinks.empty() && !blind) {
      const float sink = reinterpret_cast<const float*>(p.sinks.data)[head];
      const float new_top = sink > top ? sink : top;
      const float shrink = sum > 0 ? std::exp(top - new_top) : 0.0f;
      if (new_top > -kInfinity) {
        sum = sum * shrink + std::exp(sink - new_top);
        scale_row(out, shrink, t.v_dim, out);
        top = new_top;
      }
    }
    const float v_scale = p.v_scale.of(task.kv_head);
    scale_row(out, sum > 0 ? v_scale / sum : (sum == 0 ? 0.0f : sum), t.v_dim, out);
    if (!p.gate.empty() && !blind) open_gate(p, token, head, t.v_dim, out);
    store_row(out, t.v_dim, row3(p.out, token, head), p.out.dtype);
    if (p.lse.empty()) continue;
    auto* lse = reinterpret_cast<float*>(row2(p.lse, token));
    lse[head] = blind ? -kInfinity : top + std::log(sum);
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_ATTENTION_RESULTS_INL_H_
