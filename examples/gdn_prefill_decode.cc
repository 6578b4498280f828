// One GDN layer through a prompt and then token by token. The states in the slot are all that it
// keeps of the past, so the outputs are those of the whole text in one piece.
#include <cstdio>

#include "examples/tensor.h"
#include "hybridattn/hybridattn.h"

using namespace hybridattn;
using examples::Tensor, examples::noise;

int main() try {
  constexpr std::int64_t HK = 2, HV = 4, K = 32, V = 48;  // GDN: heads and head dims
  constexpr std::int64_t C = 2 * HK * K + HV * V, W = 4;  // its convolution: channels and width
  const Tensor conv_weight = noise({C, W}, 1), a_log = noise({HV}, 2), dt_bias = noise({HV}, 3);
  const RadixLinearAttention layer{0, 0, HK, HV, K, V, conv_weight, a_log, dt_bias};

  constexpr std::int32_t kSlots = 2, kTokens = 100, kPrompt = 90;
  Tensor recurrent({kSlots, HV, V, K}), conv({kSlots, C, W - 1});
  auto context = or_throw(Context::create());
  auto backend = or_throw(GDNAttnBackend::create(*context, {{recurrent}, {conv}}));

  const Tensor qkv = noise({kTokens, C}, 4);
  const Tensor a = noise({kTokens, HV}, 5), b = noise({kTokens, HV}, 6);
  // Runs a step of one row: `new_tokens` of the text from `computed` on.
  const auto run = [&](const BatchRow& row, Tensor& out) {
    const std::int64_t first = row.computed, count = row.new_tokens;
    const auto plan = or_throw(backend->plan(or_throw(ForwardBatch::create({row}))));
    or_throw(backend->run_gdn(*plan, layer,
                              {qkv.rows(first, count), a.rows(first, count), b.rows(first, count),
                               out.rows(first, count)}));
  };

  Tensor in_steps({kTokens, HV, V}), in_one_piece({kTokens, HV, V});
  run({RowKind::kPrefill, /*slot=*/0, /*pages=*/{}, /*computed=*/0, kPrompt}, in_steps);
  for (std::int32_t t = kPrompt; t < kTokens; ++t)
    run({RowKind::kDecode, /*slot=*/0, /*pages=*/{}, /*computed=*/t, 1}, in_steps);
  run({RowKind::kPrefill, /*slot=*/1, /*pages=*/{}, /*computed=*/0, kTokens}, in_one_piece);

  const float difference = examples::max_difference(in_steps.values(), in_one_piece.values());
  std::printf("%d tokens in steps and in one piece: at most %g apart\n", kTokens,
              static_cast<double>(difference));
  return difference < 1e-6f ? 0 : 1;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
