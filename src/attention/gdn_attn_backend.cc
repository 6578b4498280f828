#include "hybridattn/gdn_attn_backend.h"

#include <algorithm>

#include "hybridattn/ops.h"
#include "hybridattn/status_macros.h"
#include "src/attention/step_shape.h"
#include "src/attention/step_uses.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/core/recorder.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_intermediates.h"
#include "src/ops/gdn_prefill_params.h"

namespace hybridattn {
namespace {

struct GdnPlan final : Plan {
  GdnPlan(std::uint64_t backend, const GraphShape& shape, bool recordable)
      : Plan(backend, shape, recordable) {
    num_steps = static_cast<std::size_t>(shape.decode_rows);
    // Behind the prefill rows one more, for tokens that no row names.
    first_verify = num_steps + static_cast<std::size_t>(shape.prefill_rows) + 1;
    const auto rows = first_verify + static_cast<std::size_t>(shape.verify_rows);
    for (auto* array : {&start, &length, &slot, &computed}) array->resize(rows);
    kept.resize(static_cast<std::size_t>(shape.verify_rows));
    kept_last.resize(static_cast<std::size_t>(shape.verify_rows));
    pad.resize(static_cast<std::size_t>(shape.tokens));
    parents.resize(static_cast<std::size_t>(shape.tokens), kChain);
  }

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
  RaggedRows steps() const { return rows(0, num_steps); }
  /// Empty where nothing but steps can be: as many tokens as decode rows.
  RaggedRows prefills() const {
    const std::size_t count = first_verify - num_steps;
    const bool any = static_cast<std::size_t>(num_tokens()) > num_steps || count > 1;
    return rows(num_steps, any ? count : 0);
  }
  RaggedRows steps_and_prefills() const {
    return rows(0, num_steps + static_cast<std::size_t>(prefills().count));
  }
  RaggedRows verifies() const { return rows(first_verify, start.size() - first_verify); }
  VerifyRows verify() const { return {kept.data(), parents.data()}; }

  void write(std::size_t at, const RowView& row) {
    const bool is_pad = row.kind == RowKind::kPad;
    start[at] = row.first_token;
    length[at] = row.new_tokens;
    slot[at] = is_pad ? kPadIndex : row.slot;
    computed[at] = static_cast<std::int32_t>(row.computed);
    std::fill_n(pad.begin() + row.first_token, row.new_tokens, is_pad ? 1 : 0);
    std::fill_n(parents.begin() + row.first_token, row.new_tokens, kChain);
    std::copy(row.parents.begin(), row.parents.end(), parents.begin() + row.first_token);
  }

  // Rows of one token (decode, padding) first, then prefill and longer padding, then verify.
  std::vector<std::int32_t> start, length, slot, computed;
  std::size_t num_steps = 0;
  std::size_t first_verify = 0;
  std::vector<std::uint8_t> pad;        // [tokens]
  std::vector<std::int32_t> kept;       // [verify rows] first slot of each in the kept states
  std::vector<std::int32_t> kept_last;  // [verify rows] kept slot of what a commit accepts
  std::vector<std::int32_t> parents;    // [tokens] of trees, kChain elsewhere
};

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
    if (recurrent.rank != 4 || conv.rank != 3 || recurrent.dim(0) != slots ||
        conv.dim(0) != slots) {
      return invalid_argument("GDNAttnBackend: layer ", i, " of the pool has ", recurrent.dim(0),
                              " recurrent slots of rank ", recurrent.rank, " and ", conv.dim(0),
                              " conv slots of rank ", conv.rank, ", must be ", slots,
                              " of rank 4 and 3");
    }
  }
  return {};
}

/// The kept states are slots of the same layers.
Status check_kept(const GdnStateView& states, const GdnStateView& kept) {
  if (kept.recurrent.empty() && kept.conv.empty()) return {};
  HYBRIDATTN_TRY(check_layers(kept));
  if (kept.conv.size() != states.conv.size()) {
    return invalid_argument("GDNAttnBackend: kept has ", kept.conv.size(), " layers, must have ",
                            states.conv.size(), " as the pool");
  }
  return {};
}

Status check_row(const RowView& row, std::int32_t index, std::int64_t slots) {
  if (row.kind == RowKind::kPad) return {};
  if (row.slot < 0 || row.slot >= slots) {
    return error(StatusCode::kOutOfRange, "GDNAttnBackend: row ", index, " (",
                 row_kind_name(row.kind), ") has slot ", row.slot, ", must be in [0, ", slots, ")");
  }
  return {};
}

/// The delta rule takes q, k and v in the model's type.
ops::GdnDims dims_of(const RadixLinearAttention& layer, const ConstTensorView& mixed_qkv) {
  return {mixed_qkv.dim(0), layer.num_k_heads,   layer.num_v_heads, layer.head_k_dim,
          layer.head_v_dim, layer.channel_decay, mixed_qkv.dtype};
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
  if (layer.channel_decay) {
    check.input("a", args.a, {"T", "HV", "K"});
    check.require(check["K"] == layer.head_k_dim, "layer ", layer.layer_id,
                  ": a has K = ", check["K"], ", must be ", layer.head_k_dim);
  } else {
    check.input("a", args.a, {"T", "HV"});
  }
  check.input("b", args.b, {"T", "HV"});
  check.output("out", args.out, {"T", "HV", "V"});
  check.optional_input("z", args.z, {"T", "HV", "V"});
  check.optional_input("norm_weight", args.norm_weight, {"V"});
  check.require(check["HV"] == layer.num_v_heads, "layer ", layer.layer_id,
                ": a has HV = ", check["HV"], ", must be ", layer.num_v_heads);
  check.require(check["V"] == layer.head_v_dim, "layer ", layer.layer_id,
                ": out has V = ", check["V"], ", must be ", layer.head_v_dim);
  return check.status();
}

/// The convolution of all rows; that of verify rows keeps its windows.
Status run_convolution(Context& context, const GdnPlan& plan, const CausalConvArgs& args,
                       const TensorView& kept) {
  CausalConvArgs some = args;
  some.rows = plan.steps_and_prefills();
  if (some.rows.count > 0) HYBRIDATTN_TRY(causal_conv(context, some));
  some.rows = plan.verifies();
  if (some.rows.count == 0) return {};
  return causal_conv_verify(context, {some, plan.verify(), kept});
}

/// The delta rule over the convolution's output: decode rows step, prefill rows go in chunks,
/// verify rows step and keep every state.
Status run_delta_rule(Context& context, const GdnPlan& plan, const ops::GdnIntermediates& between,
                      const TensorView& state, const TensorView& kept, const TensorView& out) {
  GdnArgs args = between.delta_rule();
  args.state = state;
  args.out = out;
  args.rows = plan.steps();
  if (args.rows.count > 0) HYBRIDATTN_TRY(gdn_step(context, args));
  args.rows = plan.prefills();
  if (args.rows.count > 0) HYBRIDATTN_TRY(gdn_prefill(context, args));
  args.rows = plan.verifies();
  if (args.rows.count == 0) return {};
  return gdn_verify(context, {args, plan.verify(), kept});
}

}  // namespace

GDNAttnBackend::GDNAttnBackend(Context& context, GdnStateView states, GdnStateView kept)
    : context_(context), states_(std::move(states)), kept_(std::move(kept)),
      uses_(std::make_unique<backend::StepUses>()) {}

GDNAttnBackend::~GDNAttnBackend() = default;

Result<std::unique_ptr<GDNAttnBackend>> GDNAttnBackend::create(Context& context,
                                                               GdnStateView states,
                                                               GdnStateView kept) {
  if (context.device() != DeviceType::kCpu) {
    return error(
        StatusCode::kUnsupported,
        "GDNAttnBackend: the context is on cuda, must be on cpu: plans lie in host memory");
  }
  HYBRIDATTN_TRY(check_layers(states));
  HYBRIDATTN_TRY(check_kept(states, kept));
  for (const TensorView& state : states.recurrent) {
    if (context.chunk_invariant() && state.dtype != DType::kF32) {
      return error(StatusCode::kUnsupported, "GDNAttnBackend: the states are ",
                   dtype_name(state.dtype), " at rest, must be f32 for chunk_invariant");
    }
  }
  return std::unique_ptr<GDNAttnBackend>(
      new GDNAttnBackend(context, std::move(states), std::move(kept)));
}

Status GDNAttnBackend::check_layer(const RadixLinearAttention& layer) const {
  if (layer.gdn_index < 0 || static_cast<std::size_t>(layer.gdn_index) >= states_.conv.size()) {
    return error(StatusCode::kOutOfRange, name(), ": layer ", layer.layer_id, " has gdn_index ",
                 layer.gdn_index, ", must be in [0, ", states_.conv.size(), ")");
  }
  const TensorView& recurrent = states_.recurrent[static_cast<std::size_t>(layer.gdn_index)];
  const TensorView& conv = states_.conv[static_cast<std::size_t>(layer.gdn_index)];
  if (layer.num_v_heads != recurrent.dim(1) || layer.head_v_dim != recurrent.dim(2) ||
      layer.head_k_dim != recurrent.dim(3) || layer.conv_channels() != conv.dim(1)) {
    return invalid_argument(name(), ": layer ", layer.layer_id, " has num_v_heads ",
                            layer.num_v_heads, ", head_v_dim ", layer.head_v_dim, ", head_k_dim ",
                            layer.head_k_dim, ", ", layer.conv_channels(),
                            " conv channels, its states have ", recurrent.dim(1), ", ",
                            recurrent.dim(2), ", ", recurrent.dim(3), ", ", conv.dim(1));
  }
  core::ArgCheck check("layer");
  ops::check_gdn_heads(check, layer.num_k_heads, layer.num_v_heads, layer.head_k_dim,
                       layer.head_v_dim);
  check.input("conv_weight", layer.conv_weight, {"C", "W"}).input("a_log", layer.a_log, {"HV"});
  if (layer.channel_decay) {
    check.input("dt_bias", layer.dt_bias, {"HV", "K"});
  } else {
    check.input("dt_bias", layer.dt_bias, {"HV"});
  }
  check.require(check["HV"] == layer.num_v_heads, "a_log has HV = ", check["HV"], ", must be ",
                layer.num_v_heads);
  check.require(check["C"] == conv.dim(1) && check["W"] == conv.dim(2) + 1,
                "conv_weight has [C, W] = [", check["C"], ", ", check["W"], "], must be [",
                conv.dim(1), ", ", conv.dim(2) + 1, "]");
  if (check.ok()) return {};
  return error(check.status().code(), name(), ": layer ", layer.layer_id, ": ",
               check.status().message());
}

Status GDNAttnBackend::set_layers(std::span<const RadixLinearAttention> layers) {
  bool channel_decay = false;
  for (const RadixLinearAttention& layer : layers) {
    HYBRIDATTN_TRY(check_layer(layer));
    channel_decay = channel_decay || layer.channel_decay;
  }
  channel_decay_ = channel_decay;
  return {};
}

Result<std::shared_ptr<Plan>> GDNAttnBackend::make_plan(const GraphShape& shape, bool recordable) {
  return std::shared_ptr<Plan>(std::make_shared<GdnPlan>(id(), shape, recordable));
}

Status GDNAttnBackend::check_rows(std::span<const RowView> rows) {
  const std::int64_t slots = states_.recurrent[0].dim(0);
  uses_->begin(slots);
  std::int64_t drafted = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int32_t r = rows[i].index;
    HYBRIDATTN_TRY(check_row(rows[i], r, slots));
    if (rows[i].kind == RowKind::kPad) continue;
    if (const backend::StepUses::Use* first = uses_->add(rows[i].slot, r, true)) {
      return invalid_argument("GDNAttnBackend: rows ", first->row, " and ", r, " both have slot ",
                              rows[i].slot, ", must differ");
    }
    if (rows[i].kind == RowKind::kVerify) drafted += rows[i].new_tokens;
    if (context_.chunk_invariant() && rows[i].kind == RowKind::kPrefill && rows[i].new_tokens > 0 &&
        rows[i].computed % kGdnChunk != 0) {
      return invalid_argument(name(), ": row ", r, " (prefill) starts at ", rows[i].computed,
                              ", must be at a multiple of ", kGdnChunk, " for chunk_invariant");
    }
  }
  const std::int64_t room = kept_.conv.empty() ? 0 : kept_.conv[0].dim(0);
  if (drafted > room) {
    return error(StatusCode::kResourceExhausted, name(), ": the verify rows have ", drafted,
                 " tokens, the pool of kept states has ", room, " slots");
  }
  return {};
}

Status GDNAttnBackend::move_accepted(Plan& base, std::span<const AcceptedRow> accepted) {
  HYBRIDATTN_TRY(check_plan(base));
  auto* plan = static_cast<GdnPlan*>(&base);
  const RaggedRows rows = plan->verifies();
  const auto count = static_cast<std::int32_t>(accepted.size());
  for (std::size_t r = 0; r < accepted.size(); ++r) {
    const auto& path = accepted[r].path;
    plan->kept_last[r] = path.empty() ? kPadIndex : plan->kept[r] + path.back();
  }
  for (std::size_t i = 0; i < states_.conv.size() && count > 0; ++i) {
    HYBRIDATTN_TRY(copy_slots(context_, {states_.recurrent[i], plan->kept_last.data(), rows.slot,
                                         count, kept_.recurrent[i]}));
    HYBRIDATTN_TRY(copy_slots(
        context_, {states_.conv[i], plan->kept_last.data(), rows.slot, count, kept_.conv[i]}));
  }
  return {};
}

Status GDNAttnBackend::write_rows(Plan& base, std::span<const RowView> rows) {
  auto& plan = static_cast<GdnPlan&>(base);
  std::size_t step = 0;
  std::size_t prefill = plan.num_steps;
  std::size_t verify = plan.first_verify;
  std::int32_t kept = 0;
  std::int32_t tokens = 0;
  for (const RowView& row : rows) {
    tokens += row.new_tokens;
    if (row.kind == RowKind::kVerify) {
      plan.kept[verify - plan.first_verify] = kept;
      kept += row.new_tokens;
      plan.write(verify++, row);
      continue;
    }
    plan.write(backend::takes_a_step(row.kind, row.new_tokens) ? step++ : prefill++, row);
  }
  // Tokens that no row names are padding: one for each step that is left, the rest as one row.
  RowView rest{0, RowKind::kPad, kPadIndex, {}, 0, 0, tokens};
  for (; step < plan.num_steps; ++step) {
    rest.new_tokens = rest.first_token < plan.num_tokens() ? 1 : 0;
    plan.write(step, rest);
    rest.first_token += rest.new_tokens;
  }
  for (; prefill < plan.first_verify; ++prefill) {
    rest.new_tokens = plan.num_tokens() - rest.first_token;
    plan.write(prefill, rest);
    rest.first_token += rest.new_tokens;
  }
  rest.new_tokens = 0;
  for (; verify < plan.start.size(); ++verify) plan.write(verify, rest);
  plan.set_written();
  return {};
}

Status GDNAttnBackend::reserve(std::int32_t max_tokens) {
  if (max_tokens < 0) return invalid_argument(name(), "::reserve: max_tokens is ", max_tokens);
  const TensorView& recurrent = states_.recurrent[0];
  const std::int64_t v_heads = recurrent.dim(1), v_dim = recurrent.dim(2), k_dim = recurrent.dim(3);
  const std::int64_t keys = (states_.conv[0].dim(1) - v_heads * v_dim) / 2;
  return context_.reserve_workspace(
      ops::GdnIntermediates::bytes(
          {max_tokens, keys / k_dim, v_heads, k_dim, v_dim, channel_decay_}),
      ops::gdn_prefill_workspace(recurrent.dim(3), recurrent.dim(2), channel_decay_));
}

Status GDNAttnBackend::run_gdn(const Plan& base, const RadixLinearAttention& layer,
                               const GdnRunArgs& args) {
  HYBRIDATTN_TRY(check_plan(base));
  const auto* plan = static_cast<const GdnPlan*>(&base);
  HYBRIDATTN_TRY(check_layer(layer));
  if (plan->num_tokens() == 0) return {};
  HYBRIDATTN_TRY(check_args(*plan, layer, args));
  HYBRIDATTN_TRY(core::hold_if_recording(context_, name(), *plan));
  const ops::GdnDims dims = dims_of(layer, args.mixed_qkv);
  HYBRIDATTN_ASSIGN(std::byte * block,
                    core::shared_workspace(context_, ops::GdnIntermediates::bytes(dims)));
  const ops::GdnIntermediates w(block, dims);
  const auto index = static_cast<std::size_t>(layer.gdn_index);
  const bool normed = !args.z.empty();
  const bool keeps = !kept_.conv.empty();
  HYBRIDATTN_TRY(run_convolution(
      context_, *plan, {{}, args.mixed_qkv, layer.conv_weight, states_.conv[index], w.conv_out},
      keeps ? kept_.conv[index] : TensorView()));
  HYBRIDATTN_TRY(gdn_gates(context_, {args.a, args.b, layer.a_log, layer.dt_bias, w.log_decay,
                                      w.beta, layer.allow_neg_eigval}));
  HYBRIDATTN_TRY(run_delta_rule(context_, *plan, w, states_.recurrent[index],
                                keeps ? kept_.recurrent[index] : TensorView(),
                                normed ? w.core_out : args.out));
  if (normed) {
    HYBRIDATTN_TRY(gated_rms_norm(context_, {w.core_out, args.z, args.norm_weight, args.out,
                                             args.norm_epsilon, args.gate, plan->pad.data()}));
  }
  if (!core::recording(context_)) plan->set_ran();
  return {};
}

}  // namespace hybridattn
