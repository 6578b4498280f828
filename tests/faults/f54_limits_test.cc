// F54: sizes at the edge of what a grid, an index or a workspace holds are right or refused.
#include <limits>

#include "hybridattn/hybridattn.h"
#include "src/core/context_impl.h"
#include "src/ops/reference/reference.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {
namespace {

/// rows x heads tasks of decode, of which some are held to the reference.
void check_decode(std::int32_t rows, std::int64_t heads) {
  constexpr std::int64_t kDim = 16;
  Random random(1);
  Rows all;
  for (std::int32_t r = 0; r < rows; ++r) all.add(r, 1, rows - 1 - r, r % 3);
  const auto operand = [&](const Shape& shape, double low, double high) {
    std::int64_t count = 1;
    for (const std::int64_t d : shape) count *= d;
    Buffer buffer(DType::kF32, shape);
    auto* to = reinterpret_cast<float*>(buffer.memory().data());
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(random.uniform(low, high));
    return buffer;
  };
  Buffer q = operand({rows, 1, kDim}, -1, 1), k = operand({rows, 1, kDim}, -1, 1);
  Buffer v = operand({rows, heads, kDim}, -1, 1);
  Buffer decay = operand({rows, heads}, -1, 0), beta = operand({rows, heads}, 0, 1);
  Buffer state = operand({rows, heads, kDim, kDim}, -1, 1);
  Buffer out(DType::kF32, {rows, heads, kDim});
  const Buffer before = state;
  const auto context = make_context(best_isa(), 2);
  ASSERT_OK(gdn_step(*context, {all.view(), q.view(), k.view(), v.view(), decay.view(), beta.view(),
                                state.view(), out.view(), 0.25f, true}));
  for (const std::int32_t r : {0, 1, rows / 2, rows - 2, rows - 1}) {
    Rows one;
    one.add(r, 1, rows - 1 - r, r % 3);
    Buffer wanted_state = before, wanted(DType::kF32, {rows, heads, kDim});
    reference::gdn_recurrence({one.view(), q.view(), k.view(), v.view(), decay.view(), beta.view(),
                               wanted_state.view(), wanted.view(), 0.25f, true});
    EXPECT_TRUE(near(out.gather({r}), wanted.gather({r}), {1e-6, 1e-5})) << r;
    EXPECT_TRUE(
        near(state.gather({rows - 1 - r}), wanted_state.gather({rows - 1 - r}), {1e-6, 1e-5}))
        << r;
  }
}

TEST(F54Limits, RowsTimesHeadsOnBothSidesOf65535) {
  check_decode(21845, 3);  // 65,535
  check_decode(16384, 4);  // 65,536
  check_decode(16385, 4);
}

TEST(F54Limits, MoreThan16384RaggedTokens) {
  constexpr std::int64_t kTokens = 20000, kDim = 8;
  const auto context = make_context(best_isa(), 2);
  Random random(2);
  Buffer q(DType::kF32, {kTokens, 1, kDim}), k(DType::kF32, {kTokens, 1, kDim});
  for (Buffer* x : {&q, &k}) x->fill(random.values(kTokens * kDim, -1, 1));
  Buffer out(DType::kF32, {kTokens, 1, kDim}), wanted(DType::kF32, {kTokens, 1, kDim});
  KvRows rows, some;
  std::int32_t at = 0;
  for (std::int32_t length = 1; at < kTokens; length = length % 97 + 1) {
    const auto tokens = std::min<std::int32_t>(length, static_cast<std::int32_t>(kTokens) - at);
    rows.add(at, tokens, tokens, {}, at);
    if (at == 0 || at > 16300) some.add(at, tokens, tokens, {}, at);
    at += tokens;
  }
  const AttentionOptions options{0.3f, true, 0.0f, -1};
  ASSERT_OK(attention(
      *context, {rows.view(false), q.view(), k.view(), k.view(), out.view(), {}, {}, options}));
  reference::attention(
      {some.view(false), q.view(), k.view(), k.view(), wanted.view(), {}, {}, options});
  for (std::int64_t t = 16400; t < kTokens; ++t) {
    ASSERT_TRUE(near(out.gather({t}), wanted.gather({t}), {1e-6, 1e-5})) << t;
  }
}

TEST(F54Limits, ThePlanOfTheLargestLegalStepIsMadeOrRefused) {
  Buffer recurrent(DType::kF32, {2, 4, 32, 16}), conv(DType::kF32, {2, 192, 3});
  CountingAllocator memory;
  const auto context = make_context(best_isa(), 1, &memory);
  auto gdn = *GDNAttnBackend::create(*context, {{recurrent.view()}, {conv.view()}});
  memory.fail = true;  // nobody has 2^31 tokens of workspace
  const std::int32_t most = std::numeric_limits<std::int32_t>::max();
  const auto batch = ForwardBatch::create({{RowKind::kPrefill, 0, {}, 0, most}});
  ASSERT_TRUE(batch.ok());
  EXPECT_ERROR(gdn->plan(*batch).status(), kResourceExhausted, "workspace", "bytes");
  EXPECT_ERROR(gdn->reserve(most), kResourceExhausted, "workspace");
  EXPECT_ERROR(
      ForwardBatch::create({{RowKind::kPrefill, 0, {}, 0, most}, {RowKind::kDecode, 1, {}, 0, 1}})
          .status(),
      kInvalidArgument, "2147483648", "under 2^31");
}

/// An allocator with so many bytes and not one more.
class LimitedAllocator final : public Allocator {
 public:
  explicit LimitedAllocator(std::size_t bytes) : left_(bytes) {}
  void* allocate(std::size_t bytes) noexcept override {
    if (bytes > left_) return nullptr;
    left_ -= bytes;
    return inner_.allocate(bytes);
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    left_ += bytes;
    inner_.deallocate(pointer, bytes);
  }

 private:
  CountingAllocator inner_;
  std::size_t left_;
};

TEST(F54Limits, AWorkspaceOneByteTooSmallIsRefusedBeforeAnythingRuns) {
  Buffer recurrent(DType::kF32, {2, 4, 32, 16}), conv(DType::kF32, {2, 192, 3});
  const auto batch = *ForwardBatch::create({{RowKind::kPrefill, 1, {}, 0, 50}});
  const auto plan_with = [&](std::size_t bytes) {
    LimitedAllocator memory(bytes);
    ContextOptions options;
    options.threads = 1;
    options.allocator = &memory;
    const auto context = *Context::create(options);
    auto gdn = *GDNAttnBackend::create(*context, {{recurrent.view()}, {conv.view()}});
    return gdn->plan(batch).status();
  };
  std::size_t needed = 0;
  {
    CountingAllocator memory;
    ContextOptions options;
    options.threads = 1;
    options.allocator = &memory;
    const auto context = *Context::create(options);
    auto gdn = *GDNAttnBackend::create(*context, {{recurrent.view()}, {conv.view()}});
    ASSERT_TRUE(gdn->plan(batch).ok());
    needed = memory.held;
  }
  EXPECT_OK(plan_with(needed));
  EXPECT_ERROR(plan_with(needed - 1), kResourceExhausted, "workspace");
  EXPECT_TRUE(recurrent.is_poison({}));
  EXPECT_TRUE(conv.is_poison({}));
}

}  // namespace
}  // namespace hybridattn::testing
