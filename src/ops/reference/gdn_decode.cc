// The layer's ops one after the other, in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "src/ops/reference/reference.h"

namespace hybridattn::reference {
namespace {

TensorView of(std::vector<double>& values, std::initializer_list<std::int64_t> dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) count *= dim;
  values.assign(static_cast<std::size_t>(count), 0.0);
  return TensorView(values.data(), DType::kF64, dims);
}

/// `verify`: nullptr = states in place.
void run_layer(const GdnDecodeArgs& x, const GdnDecodeVerifyArgs* verify) {
  const std::int64_t tokens = x.mixed_qkv.dim(0), channels = x.mixed_qkv.dim(1);
  const std::int64_t hk = x.num_k_heads, hv = x.state.dim(1);
  const std::int64_t v_dim = x.state.dim(2), k_dim = x.state.dim(3);
  std::vector<double> conv, decay, beta, core;
  const TensorView conv_out = of(conv, {tokens, channels});
  const TensorView log_decay =
      x.a.rank == 3 ? of(decay, {tokens, hv, k_dim}) : of(decay, {tokens, hv});
  const TensorView betas = of(beta, {tokens, hv});
  const TensorView core_out = of(core, {tokens, hv, v_dim});
  const CausalConvArgs convolution{x.rows, x.mixed_qkv, x.conv_weight, x.conv_state, conv_out};
  if (verify == nullptr) {
    causal_conv(convolution);
  } else {
    causal_conv_verify({convolution, verify->verify, verify->kept_conv});
  }
  gdn_gates({x.a, x.b, x.a_log, x.dt_bias, log_decay, betas, x.allow_neg_eigval});
  GdnArgs step;
  step.rows = x.rows;
  step.q = conv_out.at(0, {tokens, hk, k_dim}, {channels, k_dim, 1});
  step.k = conv_out.at(hk * k_dim, {tokens, hk, k_dim}, {channels, k_dim, 1});
  step.v = conv_out.at(2 * hk * k_dim, {tokens, hv, v_dim}, {channels, v_dim, 1});
  step.log_decay = log_decay;
  step.beta = betas;
  step.state = x.state;
  step.out = x.z.empty() ? x.out : core_out;
  step.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(k_dim)));
  if (verify == nullptr) {
    gdn_recurrence(step);
  } else {
    gdn_verify({step, verify->verify, verify->kept});
  }
  if (x.z.empty()) return;
  std::vector<std::uint8_t> kinds(static_cast<std::size_t>(tokens), kLeftOut);
  for (std::int32_t r = 0; r < x.rows.count; ++r) {
    std::fill_n(kinds.begin() + x.rows.start[r], x.rows.length[r],
                x.rows.slot[r] == kPadIndex ? kPadded : kNormed);
  }
  gated_rms_norm({core_out, x.z, x.norm_weight, x.out, x.norm_epsilon, x.gate, kinds.data()});
}

}  // namespace

void gdn_decode(const GdnDecodeArgs& args) { run_layer(args, nullptr); }
void gdn_decode_verify(const GdnDecodeVerifyArgs& args) { run_layer(args.decode, &args); }

}  // namespace hybridattn::reference
