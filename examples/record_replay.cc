// A decode step is recorded once and replayed for other requests: calls and pointers stay, the plan
// is rewritten. Each batch runs in the smallest recorded size that holds it, padded to that size.
#include <cstdio>

#include "examples/tensor.h"
#include "hybridattn/hybridattn.h"

using namespace hybridattn;
using examples::Tensor, examples::noise, examples::fill_noise;

int main() try {
  constexpr std::int32_t kMaxRows = 8, kPages = 16, kPageSize = 16, kPagesPerRow = 2;
  constexpr std::int64_t HQ = 4, HK = 2, D = 64;  // query heads, key heads, head dim
  const RadixAttention layer{0, 0, HQ, HK, D, D, /*scaling=*/0.125f};

  // Noise in the cache stands for the keys and values of prompts.
  Tensor k_cache = noise({kPages, kPageSize, HK, D}, 1);
  Tensor v_cache = noise({kPages, kPageSize, HK, D}, 2);
  auto context = or_throw(Context::create());
  auto backend = or_throw(PagedAttnBackend::create(*context, {{k_cache}, {v_cache}}));

  // The step uses the same buffers each time. The plan says how many of their tokens count.
  Tensor q({kMaxRows, HQ, D}), k({kMaxRows, HK, D}), v({kMaxRows, HK, D}), out({kMaxRows, HQ, D});
  const auto step = [&](const Plan& plan) {
    AttentionRunArgs args;
    args.q = q.rows(0, plan.num_tokens());
    args.k = k.rows(0, plan.num_tokens());
    args.v = v.rows(0, plan.num_tokens());
    args.out = out.rows(0, plan.num_tokens());
    return backend->run_attention(plan, layer, args);
  };
  auto runner = or_throw(
      GraphRunner::create(*context, *backend, decode_buckets(kMaxRows, kPagesPerRow), step));

  for (std::int32_t rows = 1; rows <= kMaxRows; ++rows) {
    std::vector<BatchRow> requests;
    for (std::int32_t r = 0; r < rows; ++r) {
      const std::vector<std::int32_t> pages{2 * r, 2 * r + 1};
      requests.push_back({RowKind::kDecode, kPadIndex, pages, /*computed=*/16 + r, 1});
    }
    const auto batch = or_throw(ForwardBatch::create(requests));
    fill_noise(q, 3 * rows), fill_noise(k, 3 * rows + 1), fill_noise(v, 3 * rows + 2);

    or_throw(runner->run(batch));
    const std::vector<float> replayed(out.values().begin(), out.values().begin() + rows * HQ * D);
    or_throw(step(*or_throw(backend->plan(batch))));  // the same without a recording
    if (!std::equal(replayed.begin(), replayed.end(), out.values().begin())) return 1;
    std::printf("%d rows: replayed and eager are equal bit for bit\n", rows);
  }
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
