#include "engine/ops/moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hybridattn/trace.h"

namespace hybridattn::engine {
namespace {

const float* float_row(const ConstTensorView& view, std::int64_t row) {
  return static_cast<const float*>(view.data) + row * view.stride(0);
}

void choose(const float* logits, std::int32_t num_experts, std::int32_t top_k, bool normalize,
            std::vector<std::int32_t>& order, std::int32_t* experts, float* weights) {
  order.resize(static_cast<std::size_t>(num_experts));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
                    });
  const float top = logits[order[0]];
  float total = 0;
  for (std::int32_t e = 0; e < num_experts; ++e) total += std::exp(logits[e] - top);
  float chosen = 0;
  for (std::int32_t j = 0; j < top_k; ++j) {
    experts[j] = order[static_cast<std::size_t>(j)];
    weights[j] = std::exp(logits[experts[j]] - top) / total;
    chosen += weights[j];
  }
  if (!normalize) return;
  for (std::int32_t j = 0; j < top_k; ++j) weights[j] /= chosen;
}

/// Groups the choices by expert: a counting sort, so tokens rise within an expert.
void group_by_expert(std::int32_t num_experts, Routing& routing) {
  const std::size_t choices = routing.experts.size();
  routing.offsets.assign(static_cast<std::size_t>(num_experts) + 1, 0);
  routing.tokens.resize(choices);
  routing.entries.resize(choices);
  for (const std::int32_t expert : routing.experts) {
    ++routing.offsets[static_cast<std::size_t>(expert) + 1];
  }
  std::partial_sum(routing.offsets.begin(), routing.offsets.end(), routing.offsets.begin());
  std::vector<std::int32_t> next(routing.offsets.begin(), routing.offsets.end() - 1);
  for (std::size_t i = 0; i < choices; ++i) {
    const std::int32_t entry = next[static_cast<std::size_t>(routing.experts[i])]++;
    routing.tokens[static_cast<std::size_t>(entry)] =
        static_cast<std::int32_t>(i / static_cast<std::size_t>(routing.top_k));
    routing.entries[i] = entry;
  }
}

}  // namespace

void route(const ConstTensorView& logits, std::int32_t top_k, bool normalize, Routing& routing) {
  const std::int64_t tokens = logits.dim(0);
  const auto num_experts = static_cast<std::int32_t>(logits.dim(1));
  routing.top_k = top_k;
  routing.experts.resize(static_cast<std::size_t>(tokens * top_k));
  routing.weights.resize(static_cast<std::size_t>(tokens * top_k));
  std::vector<std::int32_t> order;
  for (std::int64_t t = 0; t < tokens; ++t) {
    choose(float_row(logits, t), num_experts, top_k, normalize, order,
           routing.experts.data() + t * top_k, routing.weights.data() + t * top_k);
  }
  group_by_expert(num_experts, routing);
}

void combine_experts(Context& context, const Routing& routing, const ConstTensorView& outputs,
                     const TensorView& hidden) {
  const TraceSpan span(context, "combine_experts");
  const std::int64_t width = hidden.dim(1);
  parallel_for(context.executor(), hidden.dim(0), [&](std::int64_t t, int) {
    float* y = static_cast<float*>(hidden.data) + t * hidden.stride(0);
    for (std::int32_t j = 0; j < routing.top_k; ++j) {
      const auto choice = static_cast<std::size_t>(t * routing.top_k + j);
      const float* x = float_row(outputs, routing.entries[choice]);
      const float weight = routing.weights[choice];
      for (std::int64_t i = 0; i < width; ++i) y[i] += weight * x[i];
    }
  });
}

void add_gated(Context& context, const ConstTensorView& gate, const ConstTensorView& x,
               const TensorView& hidden) {
  const TraceSpan span(context, "add_gated");
  const std::int64_t width = hidden.dim(1);
  parallel_for(context.executor(), hidden.dim(0), [&](std::int64_t t, int) {
    const float weight = 1.0f / (1.0f + std::exp(-*float_row(gate, t)));
    const float* from = float_row(x, t);
    float* y = static_cast<float*>(hidden.data) + t * hidden.stride(0);
    for (std::int64_t i = 0; i < width; ++i) y[i] += weight * from[i];
  });
}

}  // namespace hybridattn::engine
