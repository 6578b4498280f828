// Attention on the GPU at lengths that the oracle is too slow for: kernels over tiles against the
// plain form, rows written once for many calls, and what may not change a single bit.
#include <map>

#include "tests/cuda/attention_problem.h"

namespace hybridattn::testing {
namespace {

using Row = AttentionRow;
using Problem = AttentionProblem;

TEST_F(CudaAttention, LengthsAroundPagesAndTiles) {
  for (const std::int64_t page : {1, 7, 16, 64, 256}) {
    const auto p = static_cast<std::int32_t>(page);
    std::vector<Row> rows;
    for (const std::int32_t queries : {0, 1, 2, p - 1, p, p + 1}) {
      for (const std::int32_t keys : {0, 1, 2, p - 1, p, p + 1, 1023, 1025}) {
        if (queries <= keys || keys == 0) rows.push_back({queries, keys});
      }
    }
    Problem problem(rows, page, 256);
    expect_as_plain(problem);
  }
}

TEST_F(CudaAttention, LongRows) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{1, 8191}, {1, 8192}, {40, 8193}, {200, 2000}, {7, 4100}, {1, 3}}, 16, 256,
                    DType::kBF16, 8, 1, cache);
    expect_as_plain(problem);
    problem.options.window = 1000;
    expect_as_plain(problem);
    problem.options.window = -1;
    problem.options.logit_cap = 3.0f;
    expect_as_plain(problem);
  }
}

TEST_F(CudaAttention, AWindowMovesByOneKey) {
  std::map<std::int32_t, std::vector<double>> results;
  for (const std::int32_t window : {127, 128, 129, -1}) {
    Problem problem({{1, 300}, {90, 700}}, 16, 128);
    problem.options.window = window;
    expect_as_plain(problem);
    Buffer out = problem.make_out(), lse = problem.make_lse();
    ASSERT_OK(attention(context(), problem.args(out, lse)));
    results[window] = out.values();
  }
  EXPECT_NE(results[127], results[128]);
  EXPECT_NE(results[128], results[129]);
  EXPECT_NE(results[129], results[-1]);
}

TEST_F(CudaAttention, EveryOptionShows) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{1, 900}, {60, 700}}, 16, 256, DType::kBF16, 6, 2, cache);
    Buffer plain = problem.make_out(), lse = problem.make_lse();
    ASSERT_OK(attention(context(), problem.args(plain, lse)));
    Buffer sinks(DType::kF32, {6});
    sinks.fill({1, 2, 3, 1, 2, 3});
    const auto expect_other = [&](const char* what, const auto& change) {
      Buffer out = problem.make_out();
      AttentionArgs args = problem.args(out, lse);
      change(args);
      ASSERT_OK(attention(context(), args));
      const auto half = out.values().size() / 61;  // the decode row, then the others
      const auto differs = [&](std::size_t begin, std::size_t end) {
        const auto a = out.values(), b = plain.values();
        return !std::equal(a.begin() + static_cast<std::ptrdiff_t>(begin),
                           a.begin() + static_cast<std::ptrdiff_t>(end),
                           b.begin() + static_cast<std::ptrdiff_t>(begin));
      };
      EXPECT_TRUE(differs(0, half)) << what << " of a decode row";
      EXPECT_TRUE(differs(half, out.values().size())) << what << " of a prefill row";
    };
    expect_other("cap", [](AttentionArgs& a) { a.options.logit_cap = 1.0f; });
    expect_other("window", [](AttentionArgs& a) { a.options.window = 20; });
    expect_other("sinks", [&](AttentionArgs& a) { a.sinks = sinks.view(); });
    expect_other("k_scale", [](AttentionArgs& a) { a.options.k_scale = 0.5f; });
    expect_other("v_scale", [](AttentionArgs& a) { a.options.v_scale = 0.5f; });
  }
}

TEST_F(CudaAttention, KeysAndValuesOfOtherStrides) {
  Problem problem({{1, 500}, {70, 300}}, 16, 128);
  for (const Layout layout : {Layout::kAlignedSliced, Layout::kAlignedTransposed}) {
    const auto values = problem.v.values();
    problem.v = Buffer(DType::kBF16, problem.k.shape(), layout);
    problem.v.fill(values);
    expect_as_plain(problem);
  }
}

/// Results of some rows of a problem in an order, by row.
std::vector<std::vector<double>> run_rows(Context& context, Problem& problem,
                                          const std::vector<std::size_t>& order) {
  KvRows rows;
  for (const std::size_t r : order) {
    rows.add(problem.rows.q_start[r], problem.rows.q_length[r], problem.rows.kv_length[r],
             problem.pages_of[r]);
  }
  Buffer out = problem.make_out(), lse = problem.make_lse();
  AttentionArgs args = problem.args(out, lse);
  args.rows = rows.view(true);
  EXPECT_OK(attention(context, args));
  std::vector<std::vector<double>> results;
  const auto values = out.values();
  const auto token = static_cast<std::ptrdiff_t>(problem.q.num_elements() / problem.q.shape()[0]);
  for (const std::size_t r : order) {
    const auto first = values.begin() + problem.rows.q_start[r] * token;
    results.emplace_back(first, first + problem.rows.q_length[r] * token);
  }
  return results;
}

TEST_F(CudaAttention, BatchInvariantRowsAreAlikeAloneAndTogether) {
  const auto invariant = make_cuda_context("", true);
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{1, 3000}, {1, 17}, {200, 5000}, {3, 1500}, {1, 9000}, {30, 30}, {1, 1}}, 16,
                    256, DType::kBF16, 8, 1, cache);
    const auto all = run_rows(*invariant, problem, {0, 1, 2, 3, 4, 5, 6});
    const auto back = run_rows(*invariant, problem, {6, 5, 4, 3, 2, 1, 0});
    for (std::size_t r = 0; r < problem.list.size(); ++r) {
      EXPECT_EQ(all[r], run_rows(*invariant, problem, {r})[0]) << "row " << r << " alone";
      EXPECT_EQ(all[r], back[6 - r]) << "row " << r << " in another order";
    }
  }
}

TEST_F(CudaAttention, ChunkInvariantQueriesAreAlikeHoweverTheyAreCut) {
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.allocator = &shared_memory();
  options.synchronous = true;
  options.chunk_invariant = true;
  const auto invariant = make_context(options);
  // A window of two keys: the rows of a tile begin to see one after the other.
  const std::vector<std::pair<std::int32_t, DType>> kinds{{-1, DType::kBF16},
                                                          {300, DType::kBF16},
                                                          {2, DType::kBF16},
                                                          {2, DType::kF8E4M3},
                                                          {300, DType::kF8E4M3}};
  for (const auto& [window, cache] : kinds) {
    Problem whole({{1500, 6000}}, 16, 256, DType::kBF16, 8, 2, cache);
    whole.options.window = window;
    Buffer out = whole.make_out(), lse = whole.make_lse();
    ASSERT_OK(attention(*invariant, whole.args(out, lse)));
    for (const std::int32_t chunk : {64, 128, 192, 5, 1}) {
      Buffer parts = whole.make_out(), parts_lse = whole.make_lse();
      const std::int32_t end = chunk < 64 ? 160 : 1500;
      for (std::int32_t first = 0; first < end; first += chunk) {
        const std::int32_t queries = std::min(chunk, 1500 - first);
        KvRows rows;
        rows.add(first, queries, 4500 + first + queries, whole.pages_of[0]);
        AttentionArgs args = whole.args(parts, parts_lse);
        args.rows = rows.view(true);
        ASSERT_OK(attention(*invariant, args));
      }
      const auto same = [&](const Buffer& one, const Buffer& other, std::ptrdiff_t token) {
        const auto a = one.values(), b = other.values();
        return std::equal(a.begin(), a.begin() + end * token, b.begin());
      };
      EXPECT_TRUE(same(out, parts, 8 * 256))
          << "chunks of " << chunk << ", window " << window << ", " << dtype_name(cache);
      EXPECT_TRUE(same(lse, parts_lse, 8))
          << "chunks of " << chunk << ", window " << window << ", " << dtype_name(cache);
    }
  }
}

TEST_F(CudaAttention, RowsWrittenOnceServeManyCalls) {
  Problem problem({{1, 3000}, {90, 700}, {0, 5}, {2, 64}}, 16, 128);
  Buffer out = problem.make_out(), lse = problem.make_lse();
  ASSERT_OK(attention(context(), problem.args(out, lse)));
  auto rows = DeviceAttentionRows::create(context(), problem.heads(), {8, 93, 400, 4096});
  ASSERT_OK(rows.status());
  ASSERT_OK((*rows)->write(problem.rows.view(true)));
  for (int i = 0; i < 2; ++i) {
    Buffer again = problem.make_out(), again_lse = problem.make_lse();
    AttentionArgs args = problem.args(again, again_lse);
    args.rows = (*rows)->rows();
    ASSERT_OK(attention(context(), args));
    EXPECT_EQ(again.memory(), out.memory());
    EXPECT_EQ(again_lse.memory(), lse.memory());
  }
  AttentionArgs args = problem.args(out, lse);
  args.rows = (*rows)->rows();
  args.options.window = 5;
  EXPECT_ERROR(attention(context(), args), kInvalidArgument, "rows.device", "window -1", "5");
  args.options.window = -1;
  args.k = args.v = problem.k.view().at(0, {3, 16, 2, 128}, {16 * 256, 256, 128, 1});
  EXPECT_ERROR(attention(context(), args), kOutOfRange, "rows.device");
}

TEST_F(CudaAttention, RowsThatDoNotFitAreRefused) {
  auto made = DeviceAttentionRows::create(context(), {4, 2, 16}, {2, 10, 8, 100, 4});
  ASSERT_OK(made.status());
  const auto write = [&](std::vector<Row> list) {
    return (*made)->write(Problem(std::move(list), 16, 64).rows.view(true));
  };
  EXPECT_OK(write({{4, 50}, {1, 60}}));
  EXPECT_ERROR(write({{1, 1}, {1, 1}, {1, 1}}), kOutOfRange, "3 rows");
  EXPECT_ERROR(write({{5, 50}}), kOutOfRange, "5 queries");
  EXPECT_ERROR(write({{1, 101}}), kOutOfRange, "101 keys");
  EXPECT_ERROR(write({{1, 70}, {1, 70}}), kOutOfRange, "10 pages");
  EXPECT_ERROR(DeviceAttentionRows::create(context(), {4, 3, 16}, {2, 10, 8, 100}).status(),
               kInvalidArgument, "num_heads is 4", "3");
}

TEST_F(CudaAttention, ALongWindowIsAlikeHoweverQueriesAreCut) {
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.allocator = &shared_memory();
  options.synchronous = true;
  options.chunk_invariant = true;
  const auto invariant = make_context(options);
  // A window of several parts, whose first depends on where a tile begins.
  Problem whole({{200, 20290}}, 16, 64, DType::kBF16, 8, 1);
  whole.options.window = 16000;
  Buffer out = whole.make_out(), lse = whole.make_lse();
  ASSERT_OK(attention(*invariant, whole.args(out, lse)));
  for (const std::int32_t chunk : {6, 70}) {
    Buffer parts = whole.make_out(), parts_lse = whole.make_lse();
    for (std::int32_t first = 0; first < 200; first += chunk) {
      const std::int32_t queries = std::min(chunk, 200 - first);
      KvRows rows;
      rows.add(first, queries, 20090 + first + queries, whole.pages_of[0]);
      AttentionArgs args = whole.args(parts, parts_lse);
      args.rows = rows.view(true);
      ASSERT_OK(attention(*invariant, args));
    }
    EXPECT_EQ(parts.memory(), out.memory()) << "chunks of " << chunk;
  }
}

TEST_F(CudaAttention, TinyQueriesOverF8) {
  Problem problem({{1, 700}, {20, 90}}, 16, 128, DType::kBF16, 6, 2, DType::kF8E4M3);
  for (const double value : {1e-37, 1e-30, 0.0, 1e30}) {
    problem.q.fill(std::vector<double>(static_cast<std::size_t>(problem.q.num_elements()), value));
    expect_as_plain(problem);
  }
}

TEST_F(CudaAttention, ANaNThatIsSeenIsNotHidden) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{1, 700}, {70, 90}}, 16, 64, DType::kBF16, 6, 2, cache);
    problem.k.poison({problem.pages_of[0][3], 5});
    problem.k.poison({problem.pages_of[1][0], 0});
    for (Context* some : {&context(), plain_.get()}) {
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(*some, problem.args(out, lse)));
      for (const std::int64_t token : {0, 1, 70}) {
        EXPECT_TRUE(std::isnan(out.get({token, 0, 0}))) << some->last_kernel_target();
        EXPECT_TRUE(std::isnan(lse.get({token, 5}))) << some->last_kernel_target();
      }
    }
  }
}

TEST_F(CudaAttention, RowsOfAnotherKindAreRefused) {
  Problem problem({{1, 30}}, 16, 64);
  auto paged = DeviceAttentionRows::create(context(), problem.heads(), {2, 10, 8, 100});
  AttentionHeads heads = problem.heads();
  heads.page_size = 0;
  auto dense = DeviceAttentionRows::create(context(), heads, {2, 10, 8, 100});
  ASSERT_OK(paged.status());
  ASSERT_OK(dense.status());
  AttentionRows rows = problem.rows.view(true);
  EXPECT_ERROR((*dense)->write(rows), kInvalidArgument, "rows.pages is given");
  rows.pages = nullptr;
  EXPECT_ERROR((*paged)->write(rows), kInvalidArgument, "rows.pages is null");
  ASSERT_OK((*paged)->write(problem.rows.view(true)));
  Buffer out = problem.make_out(), lse = problem.make_lse();
  AttentionArgs args = problem.args(out, lse);
  args.rows = (*paged)->rows();
  EXPECT_ERROR(attention(*plain_, args), kInvalidArgument, "another context");
  const auto cpu = make_context();
  EXPECT_ERROR(attention(*cpu, args), kInvalidArgument, "another context");
  EXPECT_ERROR(attention(context(), args), kOutOfRange, "rows.device names queries up to 10");
}

}  // namespace
}  // namespace hybridattn::testing
