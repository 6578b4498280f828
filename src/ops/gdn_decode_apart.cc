#include "src/ops/gdn_decode_apart.h"

#include <algorithm>

#include "hybridattn/ops/causal_conv.h"
#include "hybridattn/ops/causal_conv_verify.h"
#include "hybridattn/ops/gdn_gates.h"
#include "hybridattn/ops/gdn_step.h"
#include "hybridattn/ops/gdn_verify.h"
#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/ops/gdn_intermediates.h"
#include "src/ops/place_rows.h"

namespace hybridattn::ops {
namespace {

GdnDims dims_of(const GdnDecodeParams& p) {
  return {p.args.mixed_qkv.dim(0), p.args.num_k_heads, p.v_heads, p.k_dim, p.v_dim,
          p.args.a.rank == 3};
}

/// What the norm does to each token: those that no row names are left out. `room` has a byte for
/// each, on the host.
void write_norm_tokens(const RaggedRows& rows, std::int64_t tokens, std::uint8_t* room) {
  std::fill_n(room, tokens, kLeftOut);
  for (std::int32_t r = 0; r < rows.count; ++r) {
    std::fill_n(room + rows.start[r], rows.length[r],
                rows.slot[r] == kPadIndex ? kPadded : kNormed);
  }
}

/// The same where the kernels of the context read it: on the CPU in `room`.
Result<const std::uint8_t*> place_norm_tokens(Context& context, const RaggedRows& rows,
                                              std::int64_t tokens, std::byte* room) {
  if (context.device() == DeviceType::kCpu) {
    auto* kinds = reinterpret_cast<std::uint8_t*>(room);
    write_norm_tokens(rows, tokens, kinds);
    return kinds;
  }
  core::UploadRing& uploads = *context.impl().uploads;
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece,
                    uploads.take(static_cast<std::size_t>(tokens)));
  write_norm_tokens(rows, tokens, reinterpret_cast<std::uint8_t*>(piece.host));
  HYBRIDATTN_TRY(uploads.send(piece));
  return reinterpret_cast<const std::uint8_t*>(piece.device);
}

Status convolve(Context& context, const CausalConvArgs& args, const GdnDecodeVerifyParams* verify) {
  if (verify == nullptr) return causal_conv(context, args);
  return causal_conv_verify(context, {args, verify->verify, verify->kept_conv});
}

Status step(Context& context, const GdnArgs& args, const GdnDecodeVerifyParams* verify) {
  if (verify == nullptr) return gdn_step(context, args);
  return gdn_verify(context, {args, verify->verify, verify->kept});
}

}  // namespace

Status run_gdn_decode_apart(Context& context, const char* op, const GdnDecodeParams& p,
                            const GdnDecodeVerifyParams* verify) {
  const bool on_cpu = context.device() == DeviceType::kCpu;
  if (core::recording(context) || (!on_cpu && context.impl().accelerator->capturing())) {
    return error(StatusCode::kFailedPrecondition, op,
                 ": a graph is recorded and no kernel serves the whole call; record the ops that "
                 "it stands for");
  }
  const GdnDecodeArgs& x = p.args;
  const GdnDims dims = dims_of(p);
  const std::size_t between = GdnIntermediates::bytes(dims);
  HYBRIDATTN_ASSIGN(
      std::byte * block,
      core::shared_workspace(context, between + static_cast<std::size_t>(dims.tokens)));
  const GdnIntermediates b(block, dims);
  HYBRIDATTN_TRY(
      convolve(context, {x.rows, x.mixed_qkv, x.conv_weight, x.conv_state, b.conv_out}, verify));
  HYBRIDATTN_TRY(
      gdn_gates(context, {x.a, x.b, x.a_log, x.dt_bias, b.log_decay, b.beta, x.allow_neg_eigval}));
  GdnArgs delta_rule = b.delta_rule();
  delta_rule.rows = x.rows;
  delta_rule.state = x.state;
  delta_rule.out = x.z.empty() ? x.out : b.core_out;
  HYBRIDATTN_TRY(step(context, delta_rule, verify));
  if (x.z.empty()) return {};
  HYBRIDATTN_ASSIGN(const std::uint8_t* tokens,
                    place_norm_tokens(context, x.rows, dims.tokens, block + between));
  return gated_rms_norm(context,
                        {b.core_out, x.z, x.norm_weight, x.out, x.norm_epsilon, x.gate, tokens});
}

}  // namespace hybridattn::ops
