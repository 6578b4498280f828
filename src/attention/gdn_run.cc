#include "src/attention/gdn_run.h"

#include <limits>

#include "hybridattn/ops.h"
#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/ops/gdn_check.h"
#include "src/ops/gdn_decode_apart.h"
#include "src/ops/gdn_intermediates.h"
#include "src/ops/gdn_prefill_params.h"

namespace hybridattn::backend {
namespace {

constexpr std::int64_t kAnyLength = std::numeric_limits<std::int32_t>::max();

/// The delta rule takes q, k and v in the model's type. On a GPU the fast kernels give that type
/// too; on the CPU the norm gets float32.
ops::GdnDims dims_of(const Context& context, const RadixLinearAttention& layer, std::int64_t tokens,
                     DType dtype) {
  const bool on_cpu = context.device() == DeviceType::kCpu;
  return {tokens,
          layer.num_k_heads,
          layer.num_v_heads,
          layer.head_k_dim,
          layer.head_v_dim,
          layer.channel_decay,
          dtype,
          on_cpu ? DType::kF32 : dtype};
}

GdnDecodeArgs step_args(const GdnCall& call, const RaggedRows& rows) {
  GdnDecodeArgs args;
  args.rows = rows;
  args.num_k_heads = call.layer.num_k_heads;
  args.mixed_qkv = call.args.mixed_qkv;
  args.conv_weight = call.layer.conv_weight;
  args.conv_state = call.conv;
  args.a = call.args.a;
  args.b = call.args.b;
  args.a_log = call.layer.a_log;
  args.dt_bias = call.layer.dt_bias;
  args.state = call.state;
  args.z = call.args.z;
  args.norm_weight = call.args.norm_weight;
  args.out = call.args.out;
  args.norm_epsilon = call.args.norm_epsilon;
  args.gate = call.args.gate;
  args.allow_neg_eigval = call.layer.allow_neg_eigval;
  return args;
}

/// Starts the kernels for rows that step token by token, if one serves the decode and the verify
/// rows whole: both, or their arithmetic would differ.
Result<bool> run_fused(Context& context, const GdnPlan& plan, const GdnCall& call) {
  if (context.device() == DeviceType::kCpu) return false;
  const RaggedRows steps = plan.steps(), verifies = plan.verifies();
  ops::GdnDecodeParams decode{};
  HYBRIDATTN_TRY(ops::check_gdn_decode("gdn_decode", step_args(call, steps), 1, decode));
  if (!ops::is_fused(context, decode)) return false;
  if (!call.kept_state.empty()) {  // there may be verify rows in another step, if not in this one
    const GdnDecodeVerifyArgs drafts{step_args(call, verifies), plan.verify(), call.kept_state,
                                     call.kept_conv};
    ops::GdnDecodeVerifyParams verify{};
    HYBRIDATTN_TRY(ops::check_gdn_decode_verify(drafts, verify));
    if (!ops::is_fused(context, verify)) return false;
    if (verifies.count > 0) HYBRIDATTN_TRY(ops::run_checked(context, verify));
  }
  if (steps.count > 0) HYBRIDATTN_TRY(ops::run_checked(context, decode));
  return true;
}

/// The rows that are left to the ops one after the other.
struct Rest {
  RaggedRows steps, prefills, both;  // both: in this order
  RaggedRows verifies;
  const std::uint8_t* norm_tokens;
};

Rest rest_of(const GdnPlan& plan, bool fused) {
  if (!fused) {
    return {plan.steps(), plan.prefills(), plan.steps_and_prefills(), plan.verifies(),
            plan.norm_tokens()};
  }
  return {{}, plan.prefills(), plan.prefills(), {}, plan.chunk_norm_tokens()};
}

/// The convolution of all rows; that of verify rows keeps its windows.
Status run_convolution(Context& context, const GdnPlan& plan, const Rest& rest, const GdnCall& call,
                       const TensorView& out) {
  CausalConvArgs args{rest.both, call.args.mixed_qkv, call.layer.conv_weight, call.conv, out};
  if (args.rows.count > 0) HYBRIDATTN_TRY(causal_conv(context, args));
  args.rows = rest.verifies;
  if (args.rows.count == 0) return {};
  return causal_conv_verify(context, {args, plan.verify(), call.kept_conv});
}

/// The delta rule over the convolution's output: decode rows step, prefill rows go in chunks,
/// verify rows step and keep every state.
Status run_delta_rule(Context& context, const GdnPlan& plan, const Rest& rest, const GdnCall& call,
                      GdnArgs args) {
  args.rows = rest.steps;
  if (args.rows.count > 0) HYBRIDATTN_TRY(gdn_step(context, args));
  args.rows = rest.prefills;
  if (args.rows.count > 0) HYBRIDATTN_TRY(gdn_prefill(context, args));
  args.rows = rest.verifies;
  if (args.rows.count == 0) return {};
  return gdn_verify(context, {args, plan.verify(), call.kept_state});
}

Status run_rest(Context& context, const GdnPlan& plan, const Rest& rest, const GdnCall& call) {
  const GdnRunArgs& x = call.args;
  const ops::GdnDims dims = dims_of(context, call.layer, x.mixed_qkv.dim(0), x.mixed_qkv.dtype);
  HYBRIDATTN_ASSIGN(std::byte * block,
                    core::shared_workspace(context, ops::GdnIntermediates::bytes(dims)));
  const ops::GdnIntermediates between(block, dims);
  const bool normed = !x.z.empty();
  HYBRIDATTN_TRY(run_convolution(context, plan, rest, call, between.conv_out));
  HYBRIDATTN_TRY(
      gdn_gates(context, {x.a, x.b, call.layer.a_log, call.layer.dt_bias, between.log_decay,
                          between.beta, call.layer.allow_neg_eigval}));
  GdnArgs args = between.delta_rule();
  args.state = call.state;
  args.out = normed ? between.core_out : x.out;
  HYBRIDATTN_TRY(run_delta_rule(context, plan, rest, call, args));
  if (!normed) return {};
  return gated_rms_norm(context, {between.core_out, x.z, x.norm_weight, x.out, x.norm_epsilon,
                                  x.gate, rest.norm_tokens});
}

}  // namespace

Status run_gdn_layer(Context& context, const GdnPlan& plan, const GdnCall& call) {
  HYBRIDATTN_ASSIGN(const bool fused, run_fused(context, plan, call));
  const Rest rest = rest_of(plan, fused);
  if (rest.both.count == 0 && rest.verifies.count == 0) return {};
  return run_rest(context, plan, rest, call);
}

Status reserve_gdn_layer(Context& context, const GdnPlan& plan, const RadixLinearAttention& layer,
                         const TensorView& state, DType dtype) {
  const ops::GdnDims dims = dims_of(context, layer, plan.num_tokens(), dtype);
  const std::size_t bytes = ops::GdnIntermediates::bytes(dims);
  HYBRIDATTN_TRY(context.reserve_workspace(bytes, 0));
  HYBRIDATTN_TRY(context.impl().reserve_counters(static_cast<std::size_t>(plan.steps().count) *
                                                 static_cast<std::size_t>(layer.num_k_heads)));
  if (plan.prefills().count == 0) return {};
  HYBRIDATTN_ASSIGN(std::byte * block, core::shared_workspace(context, bytes));
  const ops::GdnIntermediates between(block, dims);
  GdnArgs args = between.delta_rule();
  args.rows = plan.prefills();
  args.state = state;
  args.out = between.core_out;
  ops::GdnPrefillParams params{};
  HYBRIDATTN_TRY(ops::check_gdn("GDNAttnBackend", args, kAnyLength, params));
  params.whole_rows = context.batch_invariant();
  return core::reserve_for_device_kernel(context, params);
}

}  // namespace hybridattn::backend
