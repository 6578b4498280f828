// The layer's ops one after the other, in double.
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

template <class View>
View token_of(const View& view, std::int64_t token) {
  return view.at(token * view.stride(0), {1, view.dim(1), view.dim(2)},
                 {view.stride(0), view.stride(1), view.stride(2)});
}

}  // namespace

void gdn_decode(const GdnDecodeArgs& x) {
  const std::int64_t tokens = x.mixed_qkv.dim(0), channels = x.mixed_qkv.dim(1);
  const std::int64_t hk = x.num_k_heads, hv = x.state.dim(1);
  const std::int64_t v_dim = x.state.dim(2), k_dim = x.state.dim(3);
  std::vector<double> conv, decay, beta, core;
  const TensorView conv_out = of(conv, {tokens, channels});
  const TensorView log_decay =
      x.a.rank == 3 ? of(decay, {tokens, hv, k_dim}) : of(decay, {tokens, hv});
  const TensorView betas = of(beta, {tokens, hv});
  const TensorView core_out = of(core, {tokens, hv, v_dim});
  causal_conv({x.rows, x.mixed_qkv, x.conv_weight, x.conv_state, conv_out});
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
  gdn_recurrence(step);
  if (x.z.empty()) return;
  std::vector<std::uint8_t> pad(1);
  for (std::int32_t r = 0; r < x.rows.count; ++r) {
    if (x.rows.length[r] == 0) continue;
    pad[0] = x.rows.slot[r] == kPadIndex ? 1 : 0;
    const std::int64_t token = x.rows.start[r];
    gated_rms_norm({token_of(core_out, token), token_of(x.z, token), x.norm_weight,
                    token_of(x.out, token), x.norm_epsilon, x.gate, pad.data()});
  }
}

}  // namespace hybridattn::reference
