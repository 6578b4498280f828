#include "hybridattn/gdn_attn_backend.h"

#include <algorithm>

#include "hybridattn/ops.h"
#include "hybridattn/status_macros.h"
#include "src/attention/gdn_run.h"
#include "src/attention/spare_steps.h"
#include "src/attention/step_shape.h"
#include "src/attention/step_uses.h"
#include "src/core/arg_check.h"
#include "src/core/recorder.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_intermediates.h"
#include "src/ops/gdn_prefill_params.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

using backend::GdnPlan;
using backend::PlacedGdnStep;

namespace {

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

/// As many rows and tokens of each kind as a few sizes of steps have room for.
GraphShape rounded_up(const GraphShape& shape) {
  return {backend::round_up_count(shape.prefill_rows), backend::round_up_count(shape.decode_rows),
          backend::round_up_count(shape.verify_rows), backend::round_up_count(shape.tokens), 0};
}

Status check_row(const RowView& row, std::int32_t index, std::int64_t slots) {
  if (row.kind == RowKind::kPad) return {};
  if (row.slot < 0 || row.slot >= slots) {
    return error(StatusCode::kOutOfRange, "GDNAttnBackend: row ", index, " (",
                 row_kind_name(row.kind), ") has slot ", row.slot, ", must be in [0, ", slots, ")");
  }
  return {};
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

}  // namespace

GDNAttnBackend::GDNAttnBackend(Context& context, GdnStateView states, GdnStateView kept)
    : context_(context), states_(std::move(states)), kept_(std::move(kept)),
      uses_(std::make_unique<backend::StepUses>()) {
  if (kept_.conv.empty()) return;
  for (std::size_t i = 0; i < states_.conv.size(); ++i) {
    commit_pools_.push_back({states_.recurrent[i], kept_.recurrent[i]});
    commit_pools_.push_back({states_.conv[i], kept_.conv[i]});
  }
}

GDNAttnBackend::~GDNAttnBackend() = default;

Result<std::unique_ptr<GDNAttnBackend>> GDNAttnBackend::create(Context& context,
                                                               GdnStateView states,
                                                               GdnStateView kept) {
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
  layers_.assign(layers.begin(), layers.end());
  return {};
}

Result<std::shared_ptr<Plan>> GDNAttnBackend::make_plan(const GraphShape& shape, bool recordable) {
  auto plan = std::make_shared<GdnPlan>(id(), shape, recordable);
  if (context_.device() != DeviceType::kCpu) {
    HYBRIDATTN_ASSIGN(plan->placed, place_step(shape, recordable));
  }
  // Rows of a plan for graphs have from the start what any may need.
  if (recordable) HYBRIDATTN_TRY(reserve_layers(*plan));
  return std::shared_ptr<Plan>(std::move(plan));
}

/// Room on the device for the steps of a plan. Single steps hand theirs on when they end.
Result<std::shared_ptr<PlacedGdnStep>> GDNAttnBackend::place_step(const GraphShape& shape,
                                                                  bool recordable) {
  if (recordable) {
    HYBRIDATTN_ASSIGN(std::shared_ptr<PlacedGdnStep> made,
                      PlacedGdnStep::create(context_, shape, /*captured=*/true));
    return made;
  }
  return backend::take_spare(
      spare_, [&](const PlacedGdnStep& step) { return step.holds(shape); },
      [&] { return PlacedGdnStep::create(context_, rounded_up(shape), /*captured=*/false); });
}

/// Workspace for what the kernels of a GPU make of the plan's rows, in the layers that will be run.
Status GDNAttnBackend::reserve_layers(const Plan& base) {
  const auto& plan = static_cast<const GdnPlan&>(base);
  if (plan.placed == nullptr) return {};  // `reserve` has done it
  for (const RadixLinearAttention& layer : layers_) {
    const auto index = static_cast<std::size_t>(layer.gdn_index);
    HYBRIDATTN_TRY(backend::reserve_gdn_layer(context_, plan, layer, states_.recurrent[index],
                                              states_.conv[index].dtype));
  }
  return {};
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
    HYBRIDATTN_TRY(backend::check_on_grid(context_, name(), rows[i]));
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
  if (count == 0) return {};
  const std::int32_t* device_slots = rows.device == nullptr ? nullptr : rows.device->slot;
  return copy_slots_of_pools(
      context_, {commit_pools_, plan->kept_last.data(), rows.slot, count, nullptr, device_slots});
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
  if (plan.placed != nullptr) HYBRIDATTN_TRY(plan.placed->write(plan.on_host()));
  if (!plan.recordable()) HYBRIDATTN_TRY(reserve_layers(plan));
  plan.set_written();
  return {};
}

Status GDNAttnBackend::reserve(std::int32_t max_tokens) {
  if (max_tokens < 0) return invalid_argument(name(), "::reserve: max_tokens is ", max_tokens);
  const TensorView& recurrent = states_.recurrent[0];
  const std::int64_t v_heads = recurrent.dim(1), v_dim = recurrent.dim(2), k_dim = recurrent.dim(3);
  const std::int64_t keys = (states_.conv[0].dim(1) - v_heads * v_dim) / 2;
  const bool on_cpu = context_.device() == DeviceType::kCpu;
  return context_.reserve_workspace(
      ops::GdnIntermediates::bytes(
          {max_tokens, keys / k_dim, v_heads, k_dim, v_dim, channel_decay_}),
      on_cpu ? ops::gdn_prefill_workspace(k_dim, v_dim, channel_decay_) : 0);
}

Status GDNAttnBackend::run_gdn(const Plan& base, const RadixLinearAttention& layer,
                               const GdnRunArgs& args) {
  HYBRIDATTN_TRY(check_plan(base));
  const auto* plan = static_cast<const GdnPlan*>(&base);
  HYBRIDATTN_TRY(check_layer(layer));
  if (plan->num_tokens() == 0) return {};
  HYBRIDATTN_TRY(check_args(*plan, layer, args));
  HYBRIDATTN_TRY(core::hold_if_recording(context_, name(), *plan));
  const auto index = static_cast<std::size_t>(layer.gdn_index);
  const bool keeps = !kept_.conv.empty();
  HYBRIDATTN_TRY(backend::run_gdn_layer(
      context_, *plan,
      {layer, args, states_.recurrent[index], states_.conv[index],
       keeps ? kept_.recurrent[index] : TensorView(), keeps ? kept_.conv[index] : TensorView()}));
  if (!core::recording(context_)) plan->set_ran();
  return {};
}

}  // namespace hybridattn
