#include <cmath>

#include "engine/ops/cpu/kernels.h"

namespace hybridattn::engine::cpu {
namespace {

NextToken choose(const float* logits, std::int64_t vocab, std::int64_t limit) {
  NextToken token{0, 1};
  bool any = false;
  for (std::int64_t i = 0; i < vocab; ++i) {
    if (!std::isfinite(logits[i])) token.finite = 0;
    if (i >= limit || std::isnan(logits[i])) continue;
    if (!any || logits[i] > logits[token.id]) token.id = static_cast<std::int32_t>(i);
    any = true;
  }
  return token;
}

}  // namespace

void greedy_tokens(Context& context, const ConstTensorView& logits, const std::int32_t* limits,
                   NextToken* tokens) {
  parallel_for(context.executor(), logits.dim(0), [&](std::int64_t i, int) {
    const float* row = static_cast<const float*>(logits.data) + i * logits.stride(0);
    tokens[i] = choose(row, logits.dim(1), limits[i]);
  });
}

}  // namespace hybridattn::engine::cpu
