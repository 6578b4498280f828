// A mixed batch through a GDN layer and an attention layer: one request decodes while another
// prefills. All memory is the caller's. The inputs are such that the answers are known.
#include <cstdio>

#include "examples/tensor.h"
#include "hybridattn/hybridattn.h"

using namespace hybridattn;
using examples::Tensor;

int main() try {
  constexpr std::int64_t HQ = 4, HK = 2, D = 64;          // attention: heads and head dim
  constexpr std::int64_t GK = 2, GV = 4, K = 32, V = 48;  // GDN: heads and head dims
  constexpr std::int64_t C = 2 * GK * K + GV * V, W = 4;  // its convolution: channels and width
  const Tensor conv_weight({C, W}, 0.25f), a_log({GV}), dt_bias({GV});
  const RadixLinearAttention gdn_layer{0, 0, GK, GV, K, V, conv_weight, a_log, dt_bias};
  const RadixAttention attention_layer{1, 0, HQ, HK, D, D, /*scaling=*/0.125f};

  constexpr std::int64_t kPages = 3, kPageSize = 16, kSlots = 2;
  Tensor k_cache({kPages, kPageSize, HK, D}), v_cache({kPages, kPageSize, HK, D});
  Tensor recurrent({kSlots, GV, V, K}), conv({kSlots, C, W - 1});
  auto context = or_throw(Context::create());
  auto full = or_throw(PagedAttnBackend::create(*context, {{k_cache}, {v_cache}}));
  auto gdn = or_throw(GDNAttnBackend::create(*context, {{recurrent}, {conv}}));
  auto backend = or_throw(HybridAttnBackend::create(std::move(full), std::move(gdn), {1}));

  constexpr std::int64_t T = 21;  // the most tokens of a step
  const Tensor gates({T, GV}, 0.1f), q({T, HQ, D}), k({T, HK, D});
  Tensor qkv({T, C}), gdn_out({T, GV, V}), v({T, HK, D}), out({T, HQ, D});
  const auto step = [&](const std::vector<BatchRow>& rows) {
    std::int64_t token = 0;
    for (const BatchRow& row : rows) {  // a token's inputs say its position
      for (std::int32_t i = 0; i < row.new_tokens; ++i, ++token) {
        std::ranges::fill(v.row(token), static_cast<float>(row.computed + i));
        std::ranges::fill(qkv.row(token), std::cos(v.row(token)[0]));
      }
    }
    const auto plan = or_throw(backend->plan(or_throw(ForwardBatch::create(rows))));
    or_throw(backend->run_gdn(
        *plan, gdn_layer,
        {qkv.rows(0, token), gates.rows(0, token), gates.rows(0, token), gdn_out.rows(0, token)}));
    or_throw(backend->run_attention(
        *plan, attention_layer,
        {q.rows(0, token), k.rows(0, token), v.rows(0, token), out.rows(0, token)}));
  };
  step({{RowKind::kPrefill, /*slot=*/0, /*pages=*/{0}, /*computed=*/0, /*new_tokens=*/10}});
  step({{RowKind::kDecode, /*slot=*/0, /*pages=*/{0}, /*computed=*/10, /*new_tokens=*/1},
        {RowKind::kPrefill, /*slot=*/1, /*pages=*/{2, 1}, /*computed=*/0, /*new_tokens=*/20}});

  // Queries of zeros see all keys alike: position p gets the mean of 0 .. p. And both requests say
  // the same, so the decoded position 10 has the GDN output of the prefilled one.
  const float error = std::abs(out.row(0)[0] - 5.0f) + std::abs(out.row(20)[0] - 9.5f) +
                      examples::max_difference(gdn_out.row(0), gdn_out.row(11));
  std::printf("off by %g\n", static_cast<double>(error));
  return error < 1e-5f ? 0 : 1;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
