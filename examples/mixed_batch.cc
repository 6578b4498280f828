// A mixed batch over the caller's own memory: one request decodes while another prefills, through
// one GDN layer and one attention layer. Prints a sum so that there is something to see.
#include <cstdio>
#include <vector>

#include "hybridattn/hybridattn.h"

using namespace hybridattn;

int main() try {
  constexpr std::int64_t kTokens = 21, kPages = 4, kPage = 16, kSlots = 2;
  constexpr std::int64_t HQ = 4, HK = 2, D = 64;          // attention heads and head dim
  constexpr std::int64_t GK = 2, GV = 4, K = 32, V = 48;  // GDN heads and head dims
  constexpr std::int64_t C = 2 * GK * K + GV * V, W = 4;  // convolution channels and width
  const auto floats = [](std::int64_t n, float value) {
    return std::vector<float>(static_cast<std::size_t>(n), value);
  };
  auto k_pages = floats(kPages * kPage * HK * D, 0.0f), v_pages = k_pages;
  auto recurrent = floats(kSlots * GV * V * K, 0.0f), conv = floats(kSlots * C * (W - 1), 0.0f);
  const DType f32 = DType::kF32;

  auto context = or_throw(Context::create());
  auto full = or_throw(PagedAttnBackend::create(
      *context, {{TensorView(k_pages.data(), f32, {kPages, kPage, HK, D})},
                 {TensorView(v_pages.data(), f32, {kPages, kPage, HK, D})}}));
  auto gdn = or_throw(
      GDNAttnBackend::create(*context, {{TensorView(recurrent.data(), f32, {kSlots, GV, V, K})},
                                        {TensorView(conv.data(), f32, {kSlots, C, W - 1})}}));
  auto backend = or_throw(HybridAttnBackend::create(std::move(full), std::move(gdn), {1}));

  auto conv_weight = floats(C * W, 0.25f), a_log = floats(GV, 0.0f), dt_bias = a_log;
  const RadixLinearAttention gdn_layer{0,
                                       0,
                                       GK,
                                       GV,
                                       K,
                                       V,
                                       ConstTensorView(conv_weight.data(), f32, {C, W}),
                                       ConstTensorView(a_log.data(), f32, {GV}),
                                       ConstTensorView(dt_bias.data(), f32, {GV})};
  const RadixAttention attention_layer{1, 0, HQ, HK, D, D, 0.125f};

  // Row 0 has 10 tokens behind it and decodes; row 1 starts with 20.
  const auto batch = or_throw(ForwardBatch::create(
      {{RowKind::kDecode, 0, {0}, 10, 1}, {RowKind::kPrefill, 1, {1, 2}, 0, 20}}));
  const auto plan = or_throw(backend->plan(batch));

  auto qkv = floats(kTokens * C, 0.5f), gates = floats(kTokens * GV, 0.1f);
  auto gdn_out = floats(kTokens * GV * V, 0.0f);
  const ConstTensorView gate_view(gates.data(), f32, {kTokens, GV});
  or_throw(backend->run_gdn(*plan, gdn_layer,
                            {ConstTensorView(qkv.data(), f32, {kTokens, C}), gate_view, gate_view,
                             TensorView(gdn_out.data(), f32, {kTokens, GV, V})}));

  auto q = floats(kTokens * HQ * D, 0.5f), k = floats(kTokens * HK * D, 0.25f), v = k, out = q;
  AttentionRunArgs args;
  args.q = ConstTensorView(q.data(), f32, {kTokens, HQ, D});
  args.k = ConstTensorView(k.data(), f32, {kTokens, HK, D});
  args.v = ConstTensorView(v.data(), f32, {kTokens, HK, D});
  args.out = TensorView(out.data(), f32, {kTokens, HQ, D});
  or_throw(backend->run_attention(*plan, attention_layer, args));
  std::printf("attention %.4f, delta rule %.4f\n", static_cast<double>(out[D * HQ]),
              static_cast<double>(gdn_out.back()));
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
