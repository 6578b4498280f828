// F46: the log-sum-exp of rows with few keys or none, and merging them.
#include <cmath>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kPage = 16;
const AttentionOptions kOptions{0.25f, true, 0.0f, -1};

struct Attention {
  Attention(std::int64_t tokens, std::int64_t pages) {
    Random random(6);
    q = Operand(DType::kF32, {tokens, 2, 16}, Layout::kDense, random.values(tokens * 32, -1, 1));
    k = Operand(DType::kF32, {pages, kPage, 1, 16}, Layout::kDense,
                random.values(pages * kPage * 16, -1, 1));
    v = Operand(DType::kF32, {pages, kPage, 1, 8}, Layout::kDense,
                random.values(pages * kPage * 8, -1, 1));
    out = Operand(DType::kF32, {tokens, 2, 8}, Layout::kDense);
    lse = Operand(DType::kF32, {tokens, 2}, Layout::kDense);
  }
  AttentionArgs args(Source s, const KvRows& rows, const AttentionOptions& options = kOptions) {
    return {rows.view(true), q(s), k(s), v(s), out(s), {}, lse(s), options};
  }
  Operand q, k, v, out, lse;
};

TEST(F46EmptyRows, EveryFewQueriesOverEveryFewKeys) {
  for (const auto& context : all_contexts()) {
    for (const std::int32_t queries : {0, 1, 2}) {
      for (const std::int32_t keys : {0, 1, 15, 16, 17}) {
        Attention a(2, 2);
        KvRows rows;
        rows.add(0, queries, keys,
                 keys > 16 ? std::vector<std::int32_t>{1, 0}
                           : std::vector<std::int32_t>(keys > 0 ? 1 : 0, 1));
        ASSERT_OK(attention(*context, a.args(Source::kKernel, rows)));
        reference::attention(a.args(Source::kRounded, rows));
        for (std::int32_t t = 0; t < queries; ++t) {
          EXPECT_TRUE(near(a.out.kernel().gather({t}), a.out.of(Source::kRounded).gather({t}),
                           {1e-6, 1e-5}));
          EXPECT_TRUE(near(a.lse.kernel().gather({t}), a.lse.of(Source::kRounded).gather({t}),
                           {1e-6, 1e-5}));
          if (keys - queries + t >= 0) continue;
          EXPECT_EQ(a.out.kernel().get({t, 1, 3}), 0.0);
          EXPECT_EQ(a.lse.kernel().get({t, 1}), -INFINITY);
        }
        for (std::int32_t t = queries; t < 2; ++t) EXPECT_TRUE(a.out.kernel().is_poison({t}));
      }
    }
  }
}

TEST(F46EmptyRows, MergingPrefixAndSuffixIsTheWhole) {
  for (const auto& context : all_contexts()) {
    for (const std::int32_t prefix : {0, 16, 32}) {
      for (const std::int32_t fresh : {1, 2}) {
        Attention whole(fresh, 3);
        KvRows all;
        std::vector<std::int32_t> pages{2, 0, 1};
        all.add(0, fresh, prefix + fresh, pages);
        ASSERT_OK(attention(*context, whole.args(Source::kKernel, all)));
        Attention left(fresh, 3);
        KvRows before;
        before.add(0, fresh, prefix, pages);
        AttentionOptions open = kOptions;
        open.causal = false;
        ASSERT_OK(attention(*context, left.args(Source::kKernel, before, open)));
        Attention right(fresh, 3);
        KvRows after;
        after.add(0, fresh, fresh, {pages[static_cast<std::size_t>(prefix / kPage)]});
        ASSERT_OK(attention(*context, right.args(Source::kKernel, after)));
        ASSERT_OK(merge_states(*context, {left.out.kernel().view(), left.lse.kernel().view(),
                                          right.out.kernel().view(), right.lse.kernel().view(),
                                          right.out.kernel().view(), right.lse.kernel().view()}));
        EXPECT_TRUE(near(right.out.kernel().values(), whole.out.kernel().values(), {1e-6, 1e-5}));
        EXPECT_TRUE(near(right.lse.kernel().values(), whole.lse.kernel().values(), {1e-6, 1e-5}));
      }
    }
  }
}

TEST(F46EmptyRows, SeeNothingBesideASinkEither) {
  const auto context = make_context();
  Attention none(2, 2);
  KvRows rows;
  rows.add(0, 2, 0, {});
  AttentionArgs args = none.args(Source::kKernel, rows);
  Buffer sinks(DType::kF32, {2});
  sinks.fill({0.7, -0.2});
  args.sinks = sinks.view();
  ASSERT_OK(attention(*context, args));
  for (const double lse : none.lse.kernel().values()) EXPECT_EQ(lse, -INFINITY);
  for (const double value : none.out.kernel().values()) EXPECT_EQ(value, 0.0);
}

TEST(F46EmptyRows, ASideThatIsEmptyDropsOutInBits) {
  const auto context = make_context();
  Attention some(2, 2);
  KvRows rows;
  rows.add(0, 2, 20, {0, 1});
  ASSERT_OK(attention(*context, some.args(Source::kKernel, rows)));
  Buffer nothing(DType::kF32, {2, 2, 8});  // NaN
  Buffer empty(DType::kF32, {2, 2});
  empty.fill(std::vector<double>(4, -INFINITY));
  Buffer out(DType::kF32, {2, 2, 8});
  Buffer lse(DType::kF32, {2, 2});
  ASSERT_OK(merge_states(*context, {nothing.view(), empty.view(), some.out.kernel().view(),
                                    some.lse.kernel().view(), out.view(), lse.view()}));
  EXPECT_EQ(out.memory(), some.out.kernel().memory());
  EXPECT_EQ(lse.memory(), some.lse.kernel().memory());
}

}  // namespace
}  // namespace hybridattn::testing
