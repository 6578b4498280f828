// Attention on the GPU over every shape, layout and option that its kernels tell apart: page sizes,
// groups, types, dense keys, trees, windows, keys that several blocks share.
#include "src/core/context_impl.h"
#include "src/ops/attention_plan.h"
#include "tests/cuda/attention_problem.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;

class CudaAttentionShapes : public CudaAttention {
 protected:
  /// How the context cuts a problem's rows.
  ops::AttentionSchedule schedule_of(const Problem& problem) {
    ops::AttentionSchedule schedule;
    ops::schedule_attention(problem.view(problem.rows),
                            ops::attention_cut(context(), problem.heads()), schedule);
    return schedule;
  }
};

TEST_F(CudaAttentionShapes, PagesOfEverySizeUnderLongRows) {
  for (const std::int32_t page : {1, 7, 16, 64, 256}) {
    std::vector<AttentionRow> rows;
    for (const std::int32_t queries : {0, 1, 2, page - 1, page, page + 1}) {
      for (const std::int32_t keys : {8191, 8192, 8193}) rows.push_back({queries, keys});
    }
    Problem problem(rows, page, 64, DType::kBF16, 2, 1);
    expect_as_plain(problem);
  }
}

TEST_F(CudaAttentionShapes, ShortRowsAroundLargePages) {
  for (const std::int32_t page : {7, 256}) {
    for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
      std::vector<AttentionRow> rows;
      for (const std::int32_t queries : {0, 1, 2, page - 1, page, page + 1}) {
        for (const std::int32_t keys : {0, 1, 2, page - 1, page, page + 1}) {
          rows.push_back({queries, keys});  // some queries see nothing
        }
      }
      Problem problem(rows, page, 128, DType::kBF16, 4, 2, cache);
      expect_as_plain(problem);
    }
  }
}

TEST_F(CudaAttentionShapes, EveryGroup) {
  for (const std::int64_t group : {1, 2, 3, 5, 8, 16, 17, 32}) {
    for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
      Problem problem({{1, 700}, {2, 90}, {9, 300}, {40, 500}, {0, 3}}, 16, 128, DType::kBF16,
                      2 * group, 2, cache);
      expect_as_plain(problem);
    }
  }
}

TEST_F(CudaAttentionShapes, EveryTypeAndHeadDim) {
  for (const DType q : {DType::kBF16, DType::kF16}) {
    for (const DType cache : {q, DType::kF8E4M3}) {
      for (const std::int64_t dim : {64, 128, 256}) {
        Problem problem({{1, 3000}, {5, 70}, {130, 900}}, 16, dim, q, 16, 1, cache);
        problem.options.scale *= 0.5f;
        expect_as_plain(problem, q == DType::kF16 ? 1e-3 : 4e-3);
        if (cache != DType::kF8E4M3) continue;
        problem.add_head_scales();
        expect_as_plain(problem, q == DType::kF16 ? 1e-3 : 4e-3);
      }
    }
  }
}

TEST_F(CudaAttentionShapes, KeysThatSeveralBlocksShare) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    // The few of the first and the many of the second row are cut into parts.
    Problem problem({{1, 9000}, {64, 6000}}, 64, 128, DType::kBF16, 4, 1, cache);
    const ops::AttentionSchedule schedule = schedule_of(problem);
    for (const std::int32_t tile : {ops::kAttentionFewRows, schedule.many_rows}) {
      ASSERT_TRUE(std::any_of(schedule.joins.begin(), schedule.joins.end(),
                              [&](const auto& join) { return join.tile == tile; }));
    }
    problem.add_sinks();
    expect_as_plain(problem);
    problem.add_gates();
    if (cache == DType::kF8E4M3) problem.add_head_scales();
    expect_as_plain(problem);
    problem.options.logit_cap = 4.0f;
    expect_as_plain(problem);
    problem.options.window = 5000;
    expect_as_plain(problem);
  }
}

TEST_F(CudaAttentionShapes, DenseKeys) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{1, 4000}, {0, 7}, {3, 0}, {70, 600}, {2, 2}, {130, 130}}, 0, 128,
                    DType::kBF16, 4, 2, cache);
    expect_as_plain(problem);
    for (const bool causal : {true, false}) {
      problem.options.causal = causal;
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(context(), problem.args(out, lse)));
      auto rows = DeviceAttentionRows::create(context(), problem.heads(), {8, 206, 0, 4000});
      ASSERT_OK(rows.status());
      ASSERT_OK((*rows)->write(problem.view(problem.rows)));
      Buffer again = problem.make_out(), again_lse = problem.make_lse();
      AttentionArgs args = problem.args(again, again_lse);
      args.rows = (*rows)->rows();
      ASSERT_OK(attention(context(), args));
      EXPECT_TRUE(near(again.values(), out.values(), {4e-3, 3e-2}));
      EXPECT_TRUE(near(finite(again_lse), finite(lse), {3e-6, 3e-5}));
    }
  }
}

TEST_F(CudaAttentionShapes, TreesWithWindowsOverSeveralTiles) {
  for (const std::int64_t group : {1, 4}) {
    for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
      // 64 tokens of 4 heads are tiles of both kernels for many; 3 tokens a tile for few.
      Problem problem({{64, 900}, {1, 300}, {3, 2500}, {64, 64}, {40, 400}, {12, 12}}, 16, 128,
                      DType::kBF16, 2 * group, 2, cache);
      problem.plant_trees({0, 2, 3, 5});
      for (const std::int32_t window : {-1, 1, 5, 60, 64, 700}) {
        problem.options.window = window;
        expect_as_plain(problem);
      }
    }
  }
}

TEST_F(CudaAttentionShapes, TreesAsTheOracleHasThem) {
  Problem problem({{64, 130}, {5, 100}, {20, 20}}, 7, 64, DType::kF16, 4, 1);
  problem.plant_trees({0, 1});
  problem.add_sinks();
  problem.add_gates();
  for (const std::int32_t window : {-1, 6}) {
    problem.options.window = window;
    Buffer out = problem.make_out(), lse = problem.make_lse();
    Buffer wanted = problem.make_out(), wanted_lse = problem.make_lse();
    ASSERT_OK(attention(context(), problem.args(out, lse)));
    reference::attention(problem.args(wanted, wanted_lse));
    EXPECT_TRUE(near(out.values(), wanted.values(), {5e-4, 4e-3}));
    EXPECT_TRUE(near(lse.values(), wanted_lse.values(), {3e-6, 3e-5}));
  }
}

TEST_F(CudaAttentionShapes, KeysAndValuesOfOtherStridesInF8) {
  for (const std::int64_t page : {0, 7, 64}) {
    Problem problem({{1, 2500}, {70, 300}}, page, 128, DType::kF16, 8, 2, DType::kF8E4M3);
    for (const Layout layout : {Layout::kAlignedSliced, Layout::kAlignedTransposed}) {
      const auto values = problem.v.values();
      problem.v = Buffer(problem.v.dtype(), problem.k.shape(), layout);
      problem.v.fill(values);
      ASSERT_NE(problem.v.view().stride(0), problem.k.view().stride(0));
      expect_as_plain(problem, 1e-3);
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
