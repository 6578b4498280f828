// Speculative decoding: drafted tokens run as one verify row, then the accepted ones are committed.
// The refused ones leave no trace: all is as if the accepted ones had been decoded.
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

  // Besides the states of requests there are those after each drafted token, until the commit.
  constexpr std::int32_t kSlots = 2, kPrompt = 20, kDrafted = 4, kAccepted = 3;
  Tensor recurrent({kSlots, HV, V, K}), conv({kSlots, C, W - 1});
  Tensor kept_recurrent({kDrafted, HV, V, K}), kept_conv({kDrafted, C, W - 1});
  auto context = or_throw(Context::create());
  auto backend = or_throw(
      GDNAttnBackend::create(*context, {{recurrent}, {conv}}, {{kept_recurrent}, {kept_conv}}));

  constexpr std::int32_t kTokens = kPrompt + kDrafted;
  const Tensor qkv = noise({kTokens, C}, 4);
  const Tensor a = noise({kTokens, HV}, 5), b = noise({kTokens, HV}, 6);
  Tensor out({kTokens, HV, V});
  const auto run = [&](const BatchRow& row) {
    const std::int64_t first = row.computed, count = row.new_tokens;
    auto plan = or_throw(backend->plan(or_throw(ForwardBatch::create({row}))));
    or_throw(backend->run_gdn(*plan, layer,
                              {qkv.rows(first, count), a.rows(first, count), b.rows(first, count),
                               out.rows(first, count)}));
    return plan;
  };

  run({RowKind::kPrefill, /*slot=*/0, /*pages=*/{}, /*computed=*/0, kPrompt});
  const auto plan = run({RowKind::kVerify, /*slot=*/0, /*pages=*/{}, kPrompt, kDrafted});
  const std::int32_t last_accepted[] = {kAccepted - 1};  // for each row, counted from its first
  or_throw(backend->commit(*plan, last_accepted));
  const std::vector<float> drafted(out.values().begin(), out.values().end());

  // The same request in slot 1, which drafts nothing.
  run({RowKind::kPrefill, /*slot=*/1, /*pages=*/{}, /*computed=*/0, kPrompt});
  for (std::int32_t i = 0; i < kAccepted; ++i)
    run({RowKind::kDecode, /*slot=*/1, /*pages=*/{}, kPrompt + i, 1});

  const bool same = std::ranges::equal(recurrent.row(0), recurrent.row(1)) &&
                    std::ranges::equal(conv.row(0), conv.row(1)) &&
                    std::ranges::equal(drafted, out.values());
  std::printf("%d of %d drafted tokens accepted: states %s\n", kAccepted, kDrafted,
              same ? "as if decoded" : "DIFFERENT from decoding");
  return same ? 0 : 1;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
