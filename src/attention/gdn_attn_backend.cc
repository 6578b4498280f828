#include "hybridattn/gdn_attn_backend.h"

#include <cmath>

#include "hybridattn/ops.h"
#include "hybridattn/status_macros.h"
#include "src/attention/token_runs.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/ops/gdn_prefill_params.h"

namespace hybridattn {
namespace {

struct GdnPlan final : Plan {
  explicit GdnPlan(const ForwardBatch& batch) : Plan(batch) {}

  /// Rows [first, first + count) of the plan's own order.
  RaggedRows rows(std::size_t first, std::size_t count) const {
    RaggedRows rows;
    rows.count = static_cast<std::int32_t>(count);
    rows.start = start.data() + first;
    rows.length = length.data() + first;
    rows.slot = slot.data() + first;
    rows.computed = computed.data() + first;
    return rows;
  }
  RaggedRows all() const { return rows(0, start.size()); }
  RaggedRows steps() const { return rows(0, num_steps); }
  RaggedRows prefills() const { return rows(num_steps, start.size() - num_steps); }

  void add(const BatchRow& row, std::int32_t first_token) {
    start.push_back(first_token);
    length.push_back(row.new_tokens);
    slot.push_back(row.kind == RowKind::kPad ? kPadIndex : row.slot);
    computed.push_back(static_cast<std::int32_t>(row.computed));
  }

  // One token rows of decode and padding first, then all others.
  std::vector<std::int32_t> start, length, slot, computed;
  std::size_t num_steps = 0;
  backend::TokenRuns runs;
};

bool takes_a_step(const BatchRow& row) {
  return row.kind == RowKind::kDecode || (row.kind == RowKind::kPad && row.new_tokens == 1);
}

Status check_layers(const GdnStateView& states) {
  if (states.recurrent.empty() || states.recurrent.size() != states.conv.size()) {
    return invalid_argument("GDNAttnBackend: the pool has ", states.recurrent.size(),
                            " layers of recurrent and ", states.conv.size(),
                            " of conv states, must have the same number, at least 1");
  }
  for (std::size_t i = 0; i < states.conv.size(); ++i) {
    const TensorView& recurrent = states.recurrent[i];
    const TensorView& conv = states.conv[i];
    const std::int64_t slots = states.recurrent[0].dim(0);
    if (recurrent.rank != 4 || conv.rank != 3 || recurrent.dim(0) != slots || conv.dim(0) != slots) {
      return invalid_argument("GDNAttnBackend: layer ", i, " of the pool has ", recurrent.dim(0),
                              " recurrent slots of rank ", recurrent.rank, " and ", conv.dim(0),
                              " conv slots of rank ", conv.rank, ", must be ", slots,
                              " of rank 4 and 3");
    }
  }
  return {};
}

Status check_row(const BatchRow& row, std::int32_t index, std::int64_t slots) {
  if (row.kind == RowKind::kPad) return {};
  if (row.kind == RowKind::kVerify) {
    return error(StatusCode::kUnsupported, "GDNAttnBackend: row ", index,
                 " is verify, which this version does not serve; must be prefill, decode or pad");
  }
  if (row.slot < 0 || row.slot >= slots) {
    return error(StatusCode::kOutOfRange, "GDNAttnBackend: row ", index, " (",
                 row_kind_name(row.kind), ") has slot ", row.slot, ", must be in [0, ", slots, ")");
  }
  return {};
}

/// The intermediate tensors of one layer, float32, in the context's workspace.
struct Workspace {
  TensorView conv_out;   // [T, C]
  TensorView log_decay;  // [T, HV]
  TensorView beta;       // [T, HV]
  TensorView core_out;   // [T, HV, V]
};

std::int64_t workspace_floats(const RadixLinearAttention& layer, std::int64_t tokens) {
  return tokens * (layer.conv_channels() + 2 * layer.num_v_heads + layer.value_channels());
}

Workspace cut_workspace(std::byte* block, const RadixLinearAttention& layer, std::int64_t tokens) {
  auto* next = reinterpret_cast<float*>(block);
  const auto take = [&](std::int64_t elements) {
    float* taken = next;
    next += elements;
    return taken;
  };
  Workspace w;
  const std::int64_t heads = layer.num_v_heads;
  w.conv_out = TensorView(take(tokens * layer.conv_channels()), DType::kF32,
                          {tokens, layer.conv_channels()});
  w.log_decay = TensorView(take(tokens * heads), DType::kF32, {tokens, heads});
  w.beta = TensorView(take(tokens * heads), DType::kF32, {tokens, heads});
  w.core_out = TensorView(take(tokens * layer.value_channels()), DType::kF32,
                          {tokens, heads, layer.head_v_dim});
  return w;
}

Status check_args(const Plan& plan, const RadixLinearAttention& layer, const GdnRunArgs& args) {
  const std::int64_t tokens = plan.num_tokens();
  if (args.mixed_qkv.rank != 2 || args.mixed_qkv.dim(0) != tokens ||
      args.mixed_qkv.dim(1) != layer.conv_channels()) {
    return invalid_argument("GDNAttnBackend: layer ", layer.layer_id, ": mixed_qkv has shape [",
                            args.mixed_qkv.dim(0), ", ", args.mixed_qkv.dim(1), "] of rank ",
                            args.mixed_qkv.rank, ", must be [", tokens, ", ", layer.conv_channels(),
                            "]");
  }
  if (args.z.empty() != args.norm_weight.empty()) {
    return invalid_argument("GDNAttnBackend: layer ", layer.layer_id,
                            ": z and norm_weight must be given together");
  }
  // All before the first op: once the convolution has run, its state has advanced.
  core::ArgCheck check("GDNAttnBackend");
  check.input("mixed_qkv", args.mixed_qkv, {"T", "C"});
  check.input("a", args.a, {"T", "HV"}).input("b", args.b, {"T", "HV"});
  check.output("out", args.out, {"T", "HV", "V"});
  check.optional_input("z", args.z, {"T", "HV", "V"});
  check.optional_input("norm_weight", args.norm_weight, {"V"});
  check.require(check["HV"] == layer.num_v_heads, "layer ", layer.layer_id, ": a has HV = ",
                check["HV"], ", must be ", layer.num_v_heads);
  check.require(check["V"] == layer.head_v_dim, "layer ", layer.layer_id, ": out has V = ",
                check["V"], ", must be ", layer.head_v_dim);
  return check.status();
}

/// The delta rule over the convolution's output: decode rows step, the others go in chunks.
Status run_delta_rule(Context& context, const GdnPlan& plan, const RadixLinearAttention& layer,
                      const Workspace& w, const TensorView& state, const TensorView& out) {
  const std::int64_t tokens = plan.num_tokens();
  const std::int64_t channels = layer.conv_channels();
  const std::int64_t hk = layer.num_k_heads;
  const std::int64_t k_dim = layer.head_k_dim;
  GdnArgs args;
  args.q = w.conv_out.at(0, {tokens, hk, k_dim}, {channels, k_dim, 1});
  args.k = w.conv_out.at(layer.key_channels(), {tokens, hk, k_dim}, {channels, k_dim, 1});
  args.v = w.conv_out.at(2 * layer.key_channels(), {tokens, layer.num_v_heads, layer.head_v_dim},
                         {channels, layer.head_v_dim, 1});
  args.log_decay = w.log_decay;
  args.beta = w.beta;
  args.state = state;
  args.out = out;
  args.scale = 1.0f / std::sqrt(static_cast<float>(k_dim));
  args.rows = plan.steps();
  if (args.rows.count > 0) HYBRIDATTN_TRY(gdn_step(context, args));
  args.rows = plan.prefills();
  if (args.rows.count > 0) HYBRIDATTN_TRY(gdn_prefill(context, args));
  return {};
}

/// Zeros for the pad tokens of `out`, whose heads need not be dense.
Status zero_pads(Context& context, const std::vector<std::int32_t>& pads, const TensorView& out) {
  const auto count = static_cast<std::int32_t>(pads.size());
  if (count == 0) return {};
  if (out.stride(1) == out.dim(2)) return zero_slots(context, {out, pads.data(), count});
  for (std::int64_t head = 0; head < out.dim(1); ++head) {
    const TensorView one =
        out.at(head * out.stride(1), {out.dim(0), out.dim(2)}, {out.stride(0), 1});
    HYBRIDATTN_TRY(zero_slots(context, {one, pads.data(), count}));
  }
  return {};
}

/// The gated norm of the real tokens. Pad tokens are not read: their z may be anything.
Status run_gated_norm(Context& context, const GdnPlan& plan, const GdnRunArgs& args,
                      const TensorView& x) {
  for (const backend::TokenRun& run : plan.runs.real) {
    HYBRIDATTN_TRY(gated_rms_norm(
        context, {backend::slice_tokens(x, run), backend::slice_tokens(args.z, run),
                  args.norm_weight, backend::slice_tokens(args.out, run), args.norm_epsilon,
                  args.gate}));
  }
  return zero_pads(context, plan.runs.pads, args.out);
}

}  // namespace

GDNAttnBackend::GDNAttnBackend(Context& context, GdnStateView states)
    : context_(context), states_(std::move(states)) {}

Result<std::unique_ptr<GDNAttnBackend>> GDNAttnBackend::create(Context& context,
                                                               GdnStateView states) {
  HYBRIDATTN_TRY(check_layers(states));
  return std::unique_ptr<GDNAttnBackend>(new GDNAttnBackend(context, std::move(states)));
}

Result<std::unique_ptr<Plan>> GDNAttnBackend::plan(const ForwardBatch& batch) {
  auto plan = std::make_unique<GdnPlan>(batch);
  const TensorView& recurrent = states_.recurrent[0];
  for (const bool steps : {true, false}) {
    for (std::int32_t r = 0; r < batch.num_rows(); ++r) {
      const BatchRow& row = batch.rows()[static_cast<std::size_t>(r)];
      HYBRIDATTN_TRY(check_row(row, r, recurrent.dim(0)));
      if (takes_a_step(row) == steps) plan->add(row, batch.token_start(r));
    }
    if (steps) plan->num_steps = plan->start.size();
  }
  plan->runs = backend::token_runs(batch);
  HYBRIDATTN_TRY(reserve(batch.num_tokens()));
  return std::unique_ptr<Plan>(std::move(plan));
}

Status GDNAttnBackend::reserve(std::int32_t max_tokens) {
  if (max_tokens < 0) return invalid_argument(name(), "::reserve: max_tokens is ", max_tokens);
  const TensorView& recurrent = states_.recurrent[0];
  const std::int64_t per_token =
      states_.conv[0].dim(1) + 2 * recurrent.dim(1) + recurrent.dim(1) * recurrent.dim(2);
  return context_.reserve_workspace(static_cast<std::size_t>(max_tokens * per_token) * sizeof(float),
                                    ops::gdn_prefill_scratch(recurrent.dim(3), recurrent.dim(2)));
}

Status GDNAttnBackend::run_gdn(const Plan& base, const RadixLinearAttention& layer,
                               const GdnRunArgs& args) {
  const auto* plan = dynamic_cast<const GdnPlan*>(&base);
  if (plan == nullptr) {
    return error(StatusCode::kFailedPrecondition, name(), ": the plan is another backend's");
  }
  if (layer.gdn_index < 0 || static_cast<std::size_t>(layer.gdn_index) >= states_.conv.size()) {
    return error(StatusCode::kOutOfRange, name(), ": layer ", layer.layer_id, " has gdn_index ",
                 layer.gdn_index, ", must be in [0, ", states_.conv.size(), ")");
  }
  if (plan->num_tokens() == 0) return {};
  HYBRIDATTN_TRY(check_args(*plan, layer, args));
  const std::int64_t tokens = plan->num_tokens();
  const auto bytes = static_cast<std::size_t>(workspace_floats(layer, tokens)) * sizeof(float);
  HYBRIDATTN_ASSIGN(std::byte * block, core::shared_workspace(context_, bytes));
  const Workspace w = cut_workspace(block, layer, tokens);
  const auto index = static_cast<std::size_t>(layer.gdn_index);
  const bool normed = !args.z.empty();
  HYBRIDATTN_TRY(causal_conv(context_, {plan->all(), args.mixed_qkv, layer.conv_weight,
                                        states_.conv[index], w.conv_out}));
  HYBRIDATTN_TRY(gdn_gates(context_, {args.a, args.b, layer.a_log, layer.dt_bias, w.log_decay, w.beta,
                                      layer.allow_neg_eigval}));
  HYBRIDATTN_TRY(run_delta_rule(context_, *plan, layer, w, states_.recurrent[index],
                                normed ? w.core_out : args.out));
  return normed ? run_gated_norm(context_, *plan, args, w.core_out) : Status();
}

}  // namespace hybridattn
