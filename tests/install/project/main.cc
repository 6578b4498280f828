// What a newcomer writes after the README: a KV cache of his own, a mixed batch, and the definition
// of attention to hold the answer against.
#include <cmath>
#include <cstdio>
#include <vector>

#include "hybridattn/hybridattn.h"

using namespace hybridattn;

constexpr std::int64_t kPages = 8, kPageSize = 4, kHeads = 2, kDim = 16, kTokens = 6;

int main() try {
  std::vector<float> k_cache(kPages * kPageSize * kHeads * kDim), v_cache(k_cache);
  std::vector<float> q(kTokens * kHeads * kDim), k(q), v(q), out(q);
  float x = 0;
  for (auto* values : {&k_cache, &v_cache, &q, &k, &v}) {
    for (float& value : *values) value = std::sin(x += 0.7f);
  }
  auto context = or_throw(Context::create());
  auto backend = or_throw(PagedAttnBackend::create(
      *context, {{TensorView(k_cache.data(), {kPages, kPageSize, kHeads, kDim})},
                 {TensorView(v_cache.data(), {kPages, kPageSize, kHeads, kDim})}}));
  auto batch = or_throw(ForwardBatch::create(
      {{RowKind::kDecode, kPadIndex, /*pages=*/{5, 2}, /*computed=*/6, /*new_tokens=*/1},
       {RowKind::kPrefill, kPadIndex, /*pages=*/{7, 0}, /*computed=*/0, /*new_tokens=*/5}}));
  auto plan = or_throw(backend->plan(batch));
  const RadixAttention layer{0, 0, kHeads, kHeads, kDim, kDim, /*scaling=*/0.25f};
  or_throw(backend->run_attention(*plan, layer,
                                  {{q.data(), {kTokens, kHeads, kDim}},
                                   {k.data(), {kTokens, kHeads, kDim}},
                                   {v.data(), {kTokens, kHeads, kDim}},
                                   {out.data(), {kTokens, kHeads, kDim}}}));

  double error = 0;
  std::int64_t token = 0;
  for (const BatchRow& row : batch.rows()) {
    for (std::int64_t last = row.computed; last < row.computed + row.new_tokens; ++last, ++token) {
      for (std::int64_t at = token * kHeads * kDim; at < (token + 1) * kHeads * kDim; at += kDim) {
        std::vector<double> sum(kDim + 1);  // of weight * value, and of weights
        for (std::int64_t j = 0; j <= last; ++j) {
          const auto slot = row.pages[j / kPageSize] * kPageSize + j % kPageSize;
          const auto key = slot * kHeads * kDim + at % (kHeads * kDim);
          double score = 0;
          for (std::int64_t d = 0; d < kDim; ++d) score += double{q[at + d]} * k_cache[key + d];
          for (std::int64_t d = 0; d < kDim; ++d) sum[d] += std::exp(score / 4) * v_cache[key + d];
          sum[kDim] += std::exp(score / 4);
        }
        for (std::int64_t d = 0; d < kDim; ++d) error += std::abs(out[at + d] - sum[d] / sum[kDim]);
      }
    }
  }
  std::printf("hybridattn %s, off by %g in all\n", version(), error);
  return token == kTokens && error < 1e-4 ? 0 : 1;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
