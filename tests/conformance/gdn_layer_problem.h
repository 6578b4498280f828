// A whole Gated DeltaNet layer over rows that step token by token, in all its forms.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {

/// A kind of layer.
struct GdnLayerCase {
  std::int64_t k_dim = 128, v_dim = 128, hk = 2, hv = 4, width = 4;
  DType state = DType::kF32;
  bool norm = true, channel_decay = false, negative = false;
  GateKind gate = GateKind::kSilu;
  Layout layout = Layout::kDense;
};

/// A layer's tensors for `tokens` tokens, with eight slots. Everything that no row may read is
/// poison; slot 6 is that of a fresh row.
struct GdnLayerProblem {
  static constexpr std::int64_t kSlots = 8;

  GdnLayerProblem(Random& random, DType type, const GdnLayerCase& c, const Rows& the_rows,
                  std::int64_t tokens)
      : rows(the_rows) {
    const std::int64_t channels = 2 * c.hk * c.k_dim + c.hv * c.v_dim;
    const auto make = [&](DType dtype, const Shape& shape, Layout layout, double low, double high) {
      std::int64_t count = 1;
      for (const std::int64_t d : shape) count *= d;
      return Operand(dtype, shape, layout, random.values(count, low, high));
    };
    const Layout rows_apart = c.layout == Layout::kDense ? Layout::kDense : Layout::kSliced;
    mixed = make(type, {tokens, channels}, rows_apart, -2, 2);
    weight = make(type, {channels, c.width}, Layout::kDense, -1, 1);
    windows = make(type, {kSlots, channels, c.width - 1}, Layout::kDense, -2, 2);
    const Shape gates = c.channel_decay ? Shape{tokens, c.hv, c.k_dim} : Shape{tokens, c.hv};
    a = make(type, gates, rows_apart, -3, 3);
    b = make(type, {tokens, c.hv}, rows_apart, -3, 3);
    a_log = make(DType::kF32, {c.hv}, Layout::kDense, -3, 1);
    dt_bias = make(DType::kF32, c.channel_decay ? Shape{c.hv, c.k_dim} : Shape{c.hv},
                   Layout::kDense, -1, 1);
    state = make(c.state, {kSlots, c.hv, c.v_dim, c.k_dim}, c.layout, -0.5, 0.5);
    z = make(type, {tokens, c.hv, c.v_dim}, c.layout, -2, 2);
    norm_weight = make(DType::kF32, {c.v_dim}, Layout::kDense, 0.5, 1.5);
    out = Operand(type, {tokens, c.hv, c.v_dim}, c.layout);
    std::vector<std::int64_t> unread = everything(tokens), unowned = everything(kSlots);
    const auto take = [](std::vector<std::int64_t>& from, const std::vector<std::int64_t>& some) {
      std::erase_if(from, [&](std::int64_t i) { return std::count(some.begin(), some.end(), i); });
    };
    take(unread, rows.tokens());
    take(unowned, rows.slots());
    unowned.push_back(6);
    for (Operand* x : {&mixed, &a, &b, &z}) x->poison(unread);
    for (Operand* x : {&windows, &state}) x->poison(unowned);
  }

  GdnDecodeArgs args(Source s, const GdnLayerCase& c) {
    GdnDecodeArgs args;
    args.rows = rows.view();
    args.num_k_heads = static_cast<std::int32_t>(c.hk);
    args.mixed_qkv = mixed(s);
    args.conv_weight = weight(s);
    args.conv_state = windows(s);
    args.a = a(s);
    args.b = b(s);
    args.a_log = a_log(s);
    args.dt_bias = dt_bias(s);
    args.state = state(s);
    args.out = out(s);
    args.allow_neg_eigval = c.negative;
    args.gate = c.gate;
    if (c.norm) {
      args.z = z(s);
      args.norm_weight = norm_weight(s);
    }
    return args;
  }

  Rows rows;
  Operand mixed, weight, windows, a, b, a_log, dt_bias, state, z, norm_weight, out;
};

/// On the CPU the fused ops are others one after the other, whose own tests are many: few kinds
/// show that they are put together right.
inline std::vector<GdnLayerCase> gdn_layer_cases(bool on_cuda) {
  std::vector<GdnLayerCase> out(11);
  out[1].norm = false;
  out[2].state = DType::kBF16;
  out[3].channel_decay = true;
  out[4].gate = GateKind::kSigmoid;
  out[4].negative = true;
  out[5].layout = Layout::kTransposed;
  out[6].k_dim = 64;
  out[6].width = 3;
  out[7].k_dim = 48;
  out[7].v_dim = 80;
  out[8].hk = out[8].hv = 3;
  out[8].width = 2;
  out[8].layout = Layout::kSliced;
  out[9].layout = Layout::kAlignedSliced;
  out[10].layout = Layout::kAlignedTransposed;
  if (!on_cuda) return {out[1], out[2], out[3], out[4], out[7]};
  return out;
}

}  // namespace hybridattn::testing
