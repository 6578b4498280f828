// F47: a window of w keys has the current one among them, for every kind of row. One-hot values
// show exactly which keys a query saw.
#include "src/core/formulas.h"
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kPage = 4;

/// The last `queries` tokens of `keys` attend with `window`; keys outside of every window are NaN.
void run(Context& context, std::int32_t window, std::int32_t keys, std::int32_t queries) {
  const std::int64_t pages = (keys + kPage - 1) / kPage;
  Buffer q(DType::kF32, {queries, 1, 16});
  Buffer k(DType::kF32, {pages, kPage, 1, 16});
  Buffer v(DType::kF32, {pages, kPage, 1, keys});
  Buffer out(DType::kF32, {queries, 1, keys});
  q.fill(std::vector<double>(static_cast<std::size_t>(queries * 16), 0.0));
  const std::int32_t oldest = std::max(0, keys - queries + 1 - window);
  std::vector<std::int32_t> list;
  for (std::int32_t j = 0; j < keys; ++j) {
    if (j % kPage == 0) list.push_back(j < oldest - kPage ? kPadIndex : j / 4);
    for (std::int64_t i = 0; j >= oldest && i < 16; ++i) k.set({j / kPage, j % kPage, 0, i}, 0.0);
    for (std::int64_t i = 0; j >= oldest && i < keys; ++i) {
      v.set({j / kPage, j % kPage, 0, i}, i == j ? 1.0 : 0.0);
    }
  }
  KvRows rows;
  rows.add(0, queries, keys, list);
  ASSERT_OK(attention(context, {rows.view(true),
                                q.view(),
                                k.view(),
                                v.view(),
                                out.view(),
                                {},
                                {},
                                {1.0f, true, 0.0f, window}}));
  for (std::int32_t t = 0; t < queries; ++t) {
    const std::int32_t position = keys - queries + t;
    const double weight = 1.0 / std::min(window, position + 1);
    for (std::int32_t j = 0; j < keys; ++j) {
      const bool seen = j <= position && j > position - window;
      EXPECT_NEAR(out.get({t, 0, j}), seen ? weight : 0.0, 1e-6) << window << " " << t << " " << j;
    }
  }
}

TEST(F47WindowBounds, ExactlyTheWindowIsSeen) {
  for (const auto& context : all_contexts()) {
    for (const std::int32_t window : {1, 3, 8, 70}) {
      for (const std::int32_t extra : {-1, 0, 1, 4, 67}) {
        const std::int32_t keys = window + extra;
        if (keys < 1) continue;
        run(*context, window, keys, 1);
        run(*context, window, keys, std::min(keys, 5));
        run(*context, window, keys, keys);
      }
    }
  }
}

TEST(F47WindowBounds, TheHelperSaysTheSame) {
  EXPECT_EQ(core::visible_keys(0, 1, 10, true, 4).begin, 6);
  EXPECT_EQ(core::visible_keys(0, 1, 10, true, 4).end, 10);
  EXPECT_EQ(core::visible_keys(0, 1, 4, true, 4).begin, 0);
  EXPECT_EQ(core::visible_keys(2, 5, 10, true, -1).end, 8);
  EXPECT_EQ(core::visible_keys(0, 5, 3, true, -1).end, 0);
  EXPECT_EQ(core::visible_keys(0, 5, 3, false, -1).end, 3);
}

TEST(F47WindowBounds, AWindowOfNothingIsRefused) {
  const auto context = make_context();
  Buffer x(DType::kF32, {1, 1, 16});
  Buffer out(DType::kF32, {1, 1, 16});
  KvRows rows;
  rows.add(0, 1, 1, {});
  const auto run_with = [&](const AttentionOptions& options) {
    return attention(*context,
                     {rows.view(false), x.view(), x.view(), x.view(), out.view(), {}, {}, options});
  };
  EXPECT_ERROR(run_with({1.0f, true, 0.0f, 0}), kInvalidArgument, "window is 0");
  EXPECT_ERROR(run_with({1.0f, true, 0.0f, -2}), kInvalidArgument, "window is -2");
  EXPECT_ERROR(run_with({1.0f, false, 0.0f, 4}), kUnsupported, "window is 4", "causal");
}

}  // namespace
}  // namespace hybridattn::testing
