// The feed-forward part of layers that have experts.
#include "engine/model/activations.h"
#include "engine/model/hybrid_model.h"
#include "engine/ops/embedding.h"
#include "engine/ops/experts.h"
#include "engine/ops/zero.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// Rows [first, first + count) of a dense matrix.
TensorView rows_of(const TensorView& view, std::int64_t first, std::int64_t count) {
  return view.at(first * view.stride(0), {count, view.dim(1)}, {view.stride(0), 1});
}

}  // namespace

Status HybridModel::run_experts(const MoeWeights& w, const MoeBuffers& x) {
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    const std::int64_t first = routing_.offsets[e];
    const std::int64_t count = routing_.offsets[e + 1] - first;
    if (count == 0) continue;
    const TensorView in = rows_of(x.gathered, first, count);
    const TensorView gated = rows_of(x.experts.gated, first, count);
    HYBRIDATTN_TRY(multiply_gated(in, w.experts[e], gated));
    HYBRIDATTN_TRY(multiply(gated, w.experts[e].down, rows_of(x.outputs, first, count)));
  }
  return {};
}

/// What the router says decides which products there are, so all of it is one call of a graph.
Status HybridModel::routed_experts(const MoeWeights& w, const MoeBuffers& x,
                                   const TensorView& normed) {
  return run_or_record(context_, "routed_experts", [this, &w, x, normed]() -> Status {
    route(x.logits, config_.moe.experts_per_token, config_.moe.norm_topk_prob, routing_);
    HYBRIDATTN_TRY(gather_rows(context_, normed, routing_.tokens, nullptr, x.gathered));
    return run_experts(w, x);
  });
}

Status HybridModel::shared_expert(const MoeWeights& w, const MoeBuffers& x,
                                  const TensorView& normed, const TensorView& hidden) {
  HYBRIDATTN_TRY(multiply_gated(normed, *w.shared, x.shared.gated));
  HYBRIDATTN_TRY(multiply(x.shared.gated, w.shared->down, x.shared_out));
  HYBRIDATTN_TRY(multiply(x.router_in, w.shared_gate, x.shared_gate));
  if (weights_->on_device()) {
    return add_gated_on_device(context_, x.shared_gate, x.shared_out, hidden);
  }
  return run_or_record(context_, "add_gated", [this, x, hidden]() -> Status {
    add_gated(context_, x.shared_gate, x.shared_out, hidden);
    return {};
  });
}

Status HybridModel::experts_on_device(const MoeWeights& w, const MoeBuffers& x,
                                      const TensorView& normed, const TensorView& hidden) {
  ExpertsArgs args;
  args.x = normed;
  args.logits = x.logits;
  args.gate_up = w.gate_up;
  args.down = w.down;
  args.top_k = config_.moe.experts_per_token;
  args.normalize = config_.moe.norm_topk_prob;
  args.routing = x.routing;
  args.gated = x.experts.gated;
  args.outputs = x.outputs;
  args.hidden = hidden;
  return run_device_experts(context_, args);
}

Status HybridModel::moe(const LayerWeights& w) {
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  const MoeBuffers x(arena_, config_, dtype_, tokens_);
  const TensorView& hidden = residual.hidden;
  HYBRIDATTN_TRY(normalize(hidden, w.post_attention_norm, x.router_in));
  HYBRIDATTN_TRY(normalize(hidden, w.post_attention_norm, residual.normed));
  HYBRIDATTN_TRY(multiply(x.router_in, w.moe->router, x.logits));
  if (!keeps_hidden()) HYBRIDATTN_TRY(zero(context_, hidden));
  HYBRIDATTN_TRY(add_experts(*w.moe, x, residual.normed, hidden));
  return sum_over_ranks(hidden);
}

/// hidden += what the routed experts and the shared one give.
Status HybridModel::add_experts(const MoeWeights& w, const MoeBuffers& x, const TensorView& normed,
                                const TensorView& hidden) {
  if (weights_->on_device()) {
    // The order of the CPU, where the routed experts come last too.
    if (w.shared.has_value()) HYBRIDATTN_TRY(shared_expert(w, x, normed, hidden));
    return experts_on_device(w, x, normed, hidden);
  }
  HYBRIDATTN_TRY(routed_experts(w, x, normed));
  if (w.shared.has_value()) HYBRIDATTN_TRY(shared_expert(w, x, normed, hidden));
  return run_or_record(context_, "combine_experts", [this, x, hidden]() -> Status {
    combine_experts(context_, routing_, x.outputs, hidden);
    return {};
  });
}

}  // namespace hybridattn::engine
