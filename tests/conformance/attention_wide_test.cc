// Attention of wide groups and of many tokens, where products go through blocks of rows and keys: a
// token's result knows nothing of the tokens that share its block, nor of keys that it does not
// see.
#include <cmath>
#include <numeric>

#include "hybridattn/ops/attention.h"
#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kKeyHeads = 2, kDim = 64, kValueDim = 48, kPageSize = 16;

struct WideSetup {
  Isa isa;
  std::int64_t group;
};

class AttentionWide : public ::testing::TestWithParam<WideSetup> {
 protected:
  void SetUp() override {
    Random random{11};
    for (Buffer* buffer : {&q, &k, &v}) buffer->fill(random.values(buffer->num_elements(), -2, 2));
  }
  static std::int64_t heads() { return GetParam().group * kKeyHeads; }
  static std::unique_ptr<Context> context(int threads, bool chunk_invariant) {
    ContextOptions options;
    options.isa = GetParam().isa;
    options.threads = threads;
    options.chunk_invariant = chunk_invariant;
    return make_context(options);
  }

  /// Outputs of tokens [first, first + queries) of one row, at the end of `keys` keys.
  std::vector<double> run(Context& on, std::int32_t first, std::int32_t queries, std::int32_t keys,
                          const std::int32_t* parents = nullptr, std::int32_t window = -1) {
    std::vector<std::int32_t> pages(static_cast<std::size_t>((keys + kPageSize - 1) / kPageSize));
    for (std::size_t i = 0; i < pages.size(); ++i) {
      pages[i] = kPages - 1 - static_cast<std::int32_t>(i);
    }
    KvRows rows;
    rows.add(first, queries, keys, pages);
    Buffer out(DType::kF32, {kTokens, heads(), kValueDim});
    poison_workspace(on);
    AttentionArgs args{rows.view(true), q.view(), k.view(), v.view(),
                       out.view(),      {},       {},       {0.125f, true, 0.0f, window}};
    args.rows.parents = parents;
    EXPECT_OK(attention(on, args));
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(queries));
    std::iota(tokens.begin(), tokens.end(), first);
    return out.gather(tokens);
  }
  /// Where a key lies.
  static Index place(std::int64_t key, std::int64_t head, std::int64_t dim) {
    return {kPages - 1 - key / kPageSize, key % kPageSize, head, dim};
  }

  static constexpr std::int32_t kTokens = 330, kPages = 60;
  Buffer q{DType::kBF16, {kTokens, heads(), kDim}};
  Buffer k{DType::kBF16, {kPages, kPageSize, kKeyHeads, kDim}};
  Buffer v{DType::kBF16, {kPages, kPageSize, kKeyHeads, kValueDim}};
};

std::vector<WideSetup> setups() {
  std::vector<WideSetup> out;
  for (const Isa isa : supported_isas()) {
    for (const std::int64_t group : {3, 8, 16}) out.push_back({isa, group});
  }
  return out;
}
std::string name_of(const ::testing::TestParamInfo<WideSetup>& info) {
  return std::string(isa_name(info.param.isa)) + "_" + std::to_string(info.param.group);
}
INSTANTIATE_TEST_SUITE_P(Table, AttentionWide, ::testing::ValuesIn(setups()), name_of);

/// Threads decide how many rows a task has.
TEST_P(AttentionWide, ManyTokensHaveTheSameBitsOnAnyNumberOfThreadsAndInAnyChunk) {
  constexpr std::int32_t kKeys = 900, kChunk = 128;
  const auto one = context(1, true);
  const std::vector<double> want = run(*one, 0, kTokens, kKeys);
  for (const int threads : {2, 3, 16}) {
    EXPECT_EQ(run(*context(threads, true), 0, kTokens, kKeys), want) << threads << " threads";
  }
  const auto size = static_cast<std::ptrdiff_t>(heads() * kValueDim);
  for (std::int32_t first = 0; first < kTokens; first += kChunk) {
    const std::int32_t count = std::min(kChunk, kTokens - first);
    const std::vector<double> part = run(*one, first, count, kKeys - kTokens + first + count);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), want.begin() + first * size)) << first;
  }
}

/// A value that is no number shows in its own column of the tokens that see it, and nowhere else.
TEST_P(AttentionWide, ANanShowsWhereItIsSeen) {
  const auto on = context(2, false);
  for (const std::int32_t queries : {1, 4, 80, 330}) {
    constexpr std::int32_t kKeys = 400;
    const std::int32_t key = queries == 1 ? kKeys - 1 : kKeys - queries / 2;
    const Index at = place(key, 1, 19);
    const double before = v.get(at);
    v.set(at, NAN);
    const std::vector<double> out = run(*on, 0, queries, kKeys);
    v.set(at, before);
    std::size_t i = 0;
    for (std::int32_t token = 0; token < queries; ++token) {
      for (std::int64_t head = 0; head < heads(); ++head) {
        for (std::int64_t d = 0; d < kValueDim; ++d) {
          const bool seen = kKeys - queries + token >= key;
          const bool want = seen && head >= GetParam().group && d == 19;
          ASSERT_EQ(std::isnan(out[i++]), want) << token << ", " << head << ", " << d;
        }
      }
    }
  }
}

/// Drafts have the bits of the steps that they stand for.
TEST_P(AttentionWide, TokensOfARowHaveTheBitsOfSteps) {
  const auto on = context(2, false);
  constexpr std::int32_t kKeys = 640, kNew = 5;
  const std::vector<double> together = run(*on, 0, kNew, kKeys);
  const std::vector<double> last = run(*on, kNew - 1, 1, kKeys);
  EXPECT_TRUE(std::equal(last.rbegin(), last.rend(), together.rbegin()));
}

/// The tokens of a tree against those of the chain that each of them ends.
TEST_P(AttentionWide, TokensOfATreeSeeTheirBranch) {
  constexpr std::int32_t kBefore = 290, kNew = 6;
  const std::vector<std::int32_t> parents{-1, 0, 0, 1, -1, 4};
  const std::vector<std::vector<std::int32_t>> branches{{0},       {0, 1}, {0, 2},
                                                        {0, 1, 3}, {4},    {4, 5}};
  for (const bool one_kernel : {false, true}) {
    const auto on = context(2, one_kernel);
    for (const std::int32_t window : {-1, 3, 100}) {
      const std::vector<double> tree = run(*on, 0, kNew, kBefore + kNew, parents.data(), window);
      const std::vector<double> keys = k.values(), values = v.values();
      for (std::size_t token = 0; token < branches.size(); ++token) {
        // Its branch alone behind the computed keys.
        const std::vector<std::int32_t>& branch = branches[token];
        for (std::size_t i = 0; i < branch.size(); ++i) {
          for (std::int64_t head = 0; head < kKeyHeads; ++head) {
            const auto move = [&](Buffer& buffer, std::int64_t dim) {
              for (std::int64_t d = 0; d < dim; ++d) {
                buffer.set(place(kBefore + static_cast<std::int64_t>(i), head, d),
                           buffer.get(place(kBefore + branch[i], head, d)));
              }
            };
            move(k, kDim);
            move(v, kValueDim);
          }
        }
        const std::vector<double> chain =
            run(*on, static_cast<std::int32_t>(token), 1,
                kBefore + static_cast<std::int32_t>(branch.size()), nullptr, window);
        k.fill(keys);
        v.fill(values);
        const auto size = static_cast<std::ptrdiff_t>(chain.size());
        const auto from = tree.begin() + static_cast<std::ptrdiff_t>(token) * size;
        EXPECT_TRUE(near(std::vector<double>(from, from + size), chain, {2e-3, 2e-2}))
            << "token " << token << ", window " << window;
      }
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
