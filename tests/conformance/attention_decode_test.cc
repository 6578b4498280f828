// Attention of rows of one token depends on nothing but the row: not on the number of threads, not
// on the rows beside it.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "hybridattn/ops/attention.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kKeyHeads = 2, kDim = 64, kPageSize = 16, kPages = 700;

class AttentionDecode : public ::testing::TestWithParam<std::tuple<Isa, DType, std::int64_t>> {
 protected:
  AttentionDecode()
      : q(dtype(), {8, heads(), kDim}), k(dtype(), {kPages, kPageSize, kKeyHeads, kDim}),
        v(dtype(), {kPages, kPageSize, kKeyHeads, kDim}) {
    Random random{7};
    for (Buffer* buffer : {&q, &k, &v}) buffer->fill(random.values(buffer->num_elements(), -2, 2));
  }
  static Isa isa() { return std::get<0>(GetParam()); }
  static DType dtype() { return std::get<1>(GetParam()); }
  static std::int64_t heads() { return std::get<2>(GetParam()); }

  /// Outputs of rows of one token with so many keys each; the row at `first_page` of the cache.
  std::vector<double> run(Context& context, const std::vector<std::int32_t>& keys,
                          const std::vector<std::int32_t>& first_page,
                          const std::vector<std::int32_t>& token) {
    KvRows rows;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::vector<std::int32_t> pages(
          static_cast<std::size_t>((keys[i] + kPageSize - 1) / kPageSize));
      std::iota(pages.begin(), pages.end(), first_page[i]);
      rows.add(token[i], 1, keys[i], pages, 0);
    }
    Buffer out(dtype(), {8, heads(), kDim});
    poison_workspace(context);
    EXPECT_OK(attention(context, {rows.view(true),
                                  q.view(),
                                  k.view(),
                                  v.view(),
                                  out.view(),
                                  TensorView(),
                                  TensorView(),
                                  {0.125f, true, 0.0f, -1}}));
    return out.gather({token.begin(), token.end()});
  }

  Buffer q, k, v;
};

std::vector<std::tuple<Isa, DType, std::int64_t>> setups() {
  std::vector<std::tuple<Isa, DType, std::int64_t>> out;
  for (const Isa isa : supported_isas()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      out.emplace_back(isa, dtype, 6);
    }
    // Groups that products on tiles serve, where there are any.
    for (const std::int64_t heads : {16, 24, 32, 40}) out.emplace_back(isa, DType::kBF16, heads);
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(Table, AttentionDecode, ::testing::ValuesIn(setups()));

TEST_P(AttentionDecode, HasTheSameBitsOnAnyNumberOfThreads) {
  const std::vector<std::int32_t> keys{9000, 700, 1}, first{0, 600, 650}, token{0, 3, 5};
  std::vector<double> want;
  for (const int threads : {1, 2, 3, 8}) {
    const auto context = make_context(isa(), threads);
    const std::vector<double> got = run(*context, keys, first, token);
    if (want.empty()) want = got;
    EXPECT_EQ(got, want) << threads << " threads";
  }
}

TEST_P(AttentionDecode, HasTheSameBitsAloneAndAmongOthers) {
  const auto context = make_context(isa(), 2);
  const std::vector<double> alone = run(*context, {9000}, {0}, {2});
  const std::vector<double> among =
      run(*context, {700, 2000, 9000, 5}, {10, 560, 0, 100}, {1, 4, 2, 0});
  const auto row = static_cast<std::ptrdiff_t>(alone.size());
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), among.begin() + 2 * row));
}

TEST_P(AttentionDecode, TakesTilesForWideGroups) {
  const auto context = make_context(isa(), 2);
  run(*context, {700}, {0}, {0});
  const bool tiles = isa() == Isa::kAmx && dtype() == DType::kBF16 && heads() > 6;
  EXPECT_EQ(context->last_kernel_target() == "AMX", tiles);
}

/// One NaN among the keys that are seen must show, wherever its part.
TEST_P(AttentionDecode, ShowsANanOfEveryPart) {
  if (dtype() == DType::kF16) GTEST_SKIP() << "Highway widens it to a number without F16C";
  const auto context = make_context(isa(), 2);
  for (const std::int64_t key : {0, 600, 8999}) {
    const Index place{key / kPageSize, key % kPageSize, 1, 3};
    const double before = k.get(place);
    k.set(place, NAN);
    const std::vector<double> out = run(*context, {9000}, {0}, {0});
    k.set(place, before);
    const std::size_t half = out.size() / 2;  // of the first key head
    EXPECT_TRUE(std::none_of(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(half),
                             [](double x) { return std::isnan(x); }));
    EXPECT_TRUE(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(half), out.end(),
                            [](double x) { return std::isnan(x); }))
        << "key " << key;
  }
}

}  // namespace
}  // namespace hybridattn::testing
