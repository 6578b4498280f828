// The kernels over tiles against the double oracle at the lengths where something ends: of pages,
// of tiles, of parts. Each row is compared by itself.
#include "src/ops/reference/reference.h"
#include "tests/cuda/attention_problem.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;

class CudaAttentionOracle : public CudaAttention {
 protected:
  static std::vector<double> row_of(const Buffer& x, const KvRows& rows, std::size_t r) {
    const auto values = x.values();
    const auto token = static_cast<std::ptrdiff_t>(x.num_elements() / x.shape()[0]);
    const auto first = values.begin() + rows.q_start[r] * token;
    return {first, first + rows.q_length[r] * token};
  }
  /// Of the families, each by force.
  static void expect_as_oracle(Problem& problem, const std::vector<const char*>& families) {
    Buffer want = problem.make_out(DType::kF64), want_lse(DType::kF64, problem.make_lse().shape());
    reference::attention(problem.args(want, want_lse));
    for (const char* family : families) {
      const auto forced = make_cuda_context(family);
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(*forced, problem.args(out, lse)));
      for (std::size_t r = 0; r < problem.list.size(); ++r) {
        const AttentionRow& row = problem.list[r];
        const auto where = ::testing::Message()
                           << family << ", " << row.queries << " of " << row.keys;
        EXPECT_TRUE(
            near(row_of(out, problem.rows, r), row_of(want, problem.rows, r), {3e-3, 2.4e-2}))
            << where;
        if (row.keys == 0) continue;
        EXPECT_TRUE(
            near(row_of(lse, problem.rows, r), row_of(want_lse, problem.rows, r), {1e-6, 8e-6}))
            << where << ", log-sum-exp";
      }
    }
  }
};

TEST_F(CudaAttentionOracle, FewQueriesOfThousandsOfKeys) {
  std::vector<AttentionRow> list{{0, 8192}, {1, 0}};
  for (const std::int32_t keys : {8191, 8192, 8193}) {
    for (const std::int32_t queries : {1, 2, 15, 16, 17}) list.push_back({queries, keys});
  }
  for (const std::int64_t page : {16, 256}) {
    for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
      Problem problem(list, page, 64, DType::kBF16, 4, 2, cache);
      expect_as_oracle(problem, cache == DType::kBF16
                                    ? std::vector<const char*>{"sm80", "sm90", "auto"}
                                    : std::vector<const char*>{"sm80", "auto"});
    }
  }
}

TEST_F(CudaAttentionOracle, QueriesAndKeysAroundAPage) {
  for (const std::int64_t page : {7, 16, 256}) {
    std::vector<AttentionRow> list;
    for (const std::int64_t queries :
         {std::int64_t{1}, std::int64_t{2}, page - 1, page, page + 1}) {
      for (const std::int64_t keys : {page - 1, page, page + 1}) {
        if (keys >= queries) {
          list.push_back({static_cast<std::int32_t>(queries), static_cast<std::int32_t>(keys)});
        }
      }
    }
    Problem problem(list, page, 64, DType::kBF16, 4, 2);
    expect_as_oracle(problem, {"sm80", "sm90", "auto"});
  }
}

/// Query heads of a key head: six and twelve make rows of tiles that no power of two divides.
TEST_F(CudaAttentionOracle, GroupsOfEveryWidth) {
  for (const std::int64_t group : {1, 2, 3, 5, 6, 7, 8, 12, 16}) {
    for (const std::int64_t dim : {64, 128, 256}) {
      Problem problem({{1, 300}, {3, 77}, {40, 90}}, 16, dim, DType::kBF16, 2 * group, 2);
      expect_as_oracle(problem, {"sm80", "sm90"});
    }
  }
}

/// Keys and values whose pages, tokens and heads lie apart in ways of their own.
TEST_F(CudaAttentionOracle, KeysAndValuesOfDifferentStrides) {
  Problem problem({{1, 300}, {3, 77}, {40, 90}}, 16, 128, DType::kBF16, 4, 2);
  const std::int64_t pages = problem.k.shape()[0];
  // Values as [heads][pages][tokens], with a gap behind each token.
  constexpr std::int64_t kToken = 136;
  Buffer values(DType::kBF16, {2, pages, 16, kToken});
  for (std::int64_t p = 0; p < pages; ++p) {
    for (std::int64_t i = 0; i < 16; ++i) {
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t d = 0; d < 128; ++d) {
          values.set({h, p, i, d}, problem.v.get({p, i, h, d}));
        }
      }
    }
  }
  const TensorView apart =
      values.view().at(0, {pages, 16, 2, 128}, {16 * kToken, kToken, pages * 16 * kToken, 1});
  for (const char* family : {"sm80", "sm90", "smxx"}) {
    const auto forced = make_cuda_context(family);
    Buffer out = problem.make_out(), lse = problem.make_lse(), same = problem.make_out();
    ASSERT_OK(attention(*forced, problem.args(out, lse)));
    AttentionArgs args = problem.args(same, lse);
    args.v = apart;
    ASSERT_OK(attention(*forced, args));
    EXPECT_EQ(same.memory(), out.memory()) << family;
  }
}

}  // namespace
}  // namespace hybridattn::testing
