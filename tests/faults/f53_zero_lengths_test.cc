// F53: rows and batches of nothing return at once and change nothing; long tails do not hang.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

/// Runs `body` with a watchdog. A hang cannot be unwound: it ends the program with a message.
template <class Body>
void within_seconds(int seconds, const Body& body) {
  std::future<void> done = std::async(std::launch::async, body);
  if (done.wait_for(std::chrono::seconds(seconds)) == std::future_status::ready) return done.get();
  std::fprintf(stderr, "the call did not return within %d s\n", seconds);
  std::abort();
}

void run(Context& context, const std::vector<std::int32_t>& lengths) {
  GdnCase::Dims dims;
  dims.tokens = 0;
  for (const std::int32_t n : lengths) dims.tokens += n;
  dims.slots = static_cast<std::int64_t>(lengths.size()) + 1;
  dims.hk = 1;
  dims.hv = 2;
  dims.v = 16;
  GdnCase c(dims);
  std::int32_t start = 0;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    c.rows.add(start, lengths[r], static_cast<std::int32_t>(r), 3);
    start += lengths[r];
  }
  Canary states(c.state.kernel());
  states.allow_each(c.rows.slots());
  ASSERT_OK(gdn_prefill(context, c.args(Source::kKernel)));
  EXPECT_TRUE(states.intact());
  c.run_oracle();
  c.expect_as_oracle(2e-6, 2e-5);
  Random random(2);
  Buffer x(DType::kF32, {dims.tokens, 8});
  Buffer w(DType::kF32, {8, 4});
  Buffer window(DType::kF32, {dims.slots, 8, 3});
  Buffer out(DType::kF32, {dims.tokens, 8});
  for (Buffer* b : {&x, &w, &window}) b->fill(random.values(b->num_elements(), -1, 1));
  Canary windows(window);
  windows.allow_each(c.rows.slots());
  ASSERT_OK(causal_conv(context, {c.rows.view(), x.view(), w.view(), window.view(), out.view()}));
  EXPECT_TRUE(windows.intact());
}

TEST(F53ZeroLengths, AtTheStartTheMiddleTheEndAndEverywhere) {
  for (const auto& context : test_contexts()) {
    within_seconds(60, [&] {
      run(*context, {0, 5, 70});
      run(*context, {128, 0, 128});
      run(*context, {64, 3, 0, 0});
      run(*context, {0, 0, 0});
      run(*context, {});
    });
  }
}

TEST(F53ZeroLengths, ALongRowAmongManyShortOnes) {
  std::vector<std::int32_t> lengths(63, 1);
  lengths.insert(lengths.begin() + 20, 8192);
  for (const auto& context : test_contexts()) within_seconds(120, [&] { run(*context, lengths); });
}

TEST(F53ZeroLengths, StepsOfNothing) {
  const auto context = make_test_context();
  GdnCase c({});
  const Canary states(c.state.kernel());
  ASSERT_OK(gdn_step(*context, c.args(Source::kKernel)));
  c.rows.add(0, 0, 0, 3);
  c.rows.add(1, 0, kPadIndex, 0);
  ASSERT_OK(gdn_step(*context, c.args(Source::kKernel)));
  EXPECT_TRUE(states.intact());
  EXPECT_TRUE(c.out.kernel().is_poison({}));
}

TEST(F53ZeroLengths, EveryOtherOpOverNoTokens) {
  for (const auto& context : test_contexts()) {
    Buffer none3(DType::kF32, {0, 2, 16});
    Buffer none2(DType::kF32, {0, 16});
    Buffer weight(DType::kF32, {16});
    Buffer table(DType::kF32, {0, 8});
    Buffer cache(DType::kF32, {2, 4, 2, 16});
    const TensorView x = none3.view();
    EXPECT_OK(l2norm(*context, {x, x}));
    EXPECT_OK(rms_norm(*context, {x, weight.view(), x}));
    EXPECT_OK(gated_rms_norm(*context, {x, x, weight.view(), x}));
    EXPECT_OK(sigmoid_gate(*context, {x, x, x}));
    EXPECT_OK(silu_mul(*context, {none2.view(), none2.view(), none2.view()}));
    EXPECT_OK(rotary(*context, {x, table.view(), table.view(), x}));
    EXPECT_OK(rotary_table(*context, {nullptr, 1e4, 16, table.view(), table.view()}));
    EXPECT_OK(store_kv(*context, {x, x, nullptr, cache.view(), cache.view()}));
    EXPECT_OK(copy_kv(*context, {cache.view(), cache.view(), nullptr, nullptr, 0}));
    QkNormRopeStoreArgs fused;
    fused.q = fused.k = fused.v = ConstTensorView(nullptr, DType::kF32, {0, 2, 16});
    fused.q_out = TensorView(nullptr, DType::kF32, {0, 2, 16});
    fused.q_norm = fused.k_norm = weight.view();
    fused.cos = fused.sin = ConstTensorView(nullptr, DType::kF32, {0, 8});
    fused.k_cache = fused.v_cache = cache.view();
    EXPECT_OK(qk_norm_rope_store(*context, fused));
    KvRows rows;
    EXPECT_OK(attention(
        *context,
        {rows.view(true), x, cache.view(), cache.view(), x, {}, {}, {1.0f, true, 0.0f, -1}}));
    Buffer w(DType::kF32, {3, 16});
    Buffer out(DType::kF32, {0, 3});
    if (context->device() == DeviceType::kCpu) {  // there are no products on the GPU yet
      EXPECT_OK(linear(*context, {none2.view(), w.view(), out.view()}));
    }
    EXPECT_OK(zero_slots(*context, {cache.view(), nullptr, 0}));
    EXPECT_OK(copy_slots(*context, {cache.view(), nullptr, nullptr, 0}));
  }
}

}  // namespace
}  // namespace hybridattn::testing
