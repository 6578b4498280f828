// Rows on the GPU that begin with the same pages and read them once: as without, within the bound.
#include "src/ops/attention_plan.h"
#include "tests/cuda/attention_problem.h"
#include "tests/cuda/paged_world.h"
#include "tests/cuda/stream_graph.h"
#include "tests/support/page_rows.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;

/// Lets each row of a problem begin with as many of the first row's pages as hold `keys`.
void share_pages(Problem& problem, std::int64_t keys) {
  KvRows rows;
  const std::vector<std::int32_t> of_first = problem.pages_of[0];
  for (std::size_t r = 0; r < problem.list.size(); ++r) {
    std::vector<std::int32_t>& pages = problem.pages_of[r];
    for (std::size_t i = 0; i < static_cast<std::size_t>(keys / problem.page_size); ++i) {
      if (i + 1 < pages.size() && i < of_first.size()) pages[i] = of_first[i];
    }
    rows.add(problem.rows.q_start[r], problem.list[r].queries, problem.list[r].keys, pages);
  }
  problem.rows = rows;
}

class CudaSharedPrefix : public CudaAttention {
 protected:
  AttentionLimits limits_of(const Problem& problem) {
    AttentionLimits limits{static_cast<std::int32_t>(problem.list.size()),
                           static_cast<std::int32_t>(problem.q.shape()[0]),
                           static_cast<std::int64_t>(problem.rows.pages.size()), 9000};
    limits.captured = false;
    limits.shared_prefixes = true;
    limits.least_saved = 0;  // whatever it saves
    return limits;
  }
  void expect_shared_as_plain(Problem& problem) {
    ops::AttentionCut cut = ops::attention_cut(context(), problem.heads());
    cut.shared_page_size = static_cast<std::int32_t>(problem.page_size);
    ops::AttentionSchedule schedule;
    ops::schedule_attention(problem.view(problem.rows), cut, schedule);
    ASSERT_FALSE(schedule.groups.empty());
    auto rows = DeviceAttentionRows::create(context(), problem.heads(), limits_of(problem));
    ASSERT_OK(rows.status());
    ASSERT_OK((*rows)->write(problem.view(problem.rows)));
    Buffer out = problem.make_out(), lse = problem.make_lse();
    Buffer plain_out = problem.make_out(), plain_lse = problem.make_lse();
    AttentionArgs args = problem.args(out, lse);
    args.rows = (*rows)->rows();
    poison_workspace(context());
    ASSERT_OK(attention(context(), args));
    ASSERT_OK(attention(*plain_, problem.args(plain_out, plain_lse)));
    EXPECT_TRUE(near(out.values(), plain_out.values(), {4e-3, 3e-2}));
    EXPECT_TRUE(near(finite(lse), finite(plain_lse), {3e-6, 3e-5}));
  }
};

TEST_F(CudaSharedPrefix, DecodesOfOnePrompt) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const std::int64_t group : {1, 8, 16}) {
      std::vector<AttentionRow> list;
      for (std::int32_t r = 0; r < 20; ++r) list.push_back({1, 2100 + 37 * r});
      Problem problem(list, 16, 128, DType::kBF16, group, 1, cache);
      share_pages(problem, 2064);
      expect_shared_as_plain(problem);
    }
  }
}

TEST_F(CudaSharedPrefix, RowsOfSeveralKindsAndEveryOption) {
  // Two groups, one whose queries are few, rows beside them, a prompt's first tokens.
  Problem problem({{1, 4100},
                   {1, 4200},
                   {3, 4300},
                   {0, 9},
                   {2, 600},
                   {1, 1400},
                   {1, 1500},
                   {90, 90},
                   {1, 3000}},
                  64, 64, DType::kF16, 4, 2, DType::kF8E4M3);
  share_pages(problem, 1400);
  expect_shared_as_plain(problem);
  problem.add_sinks();
  problem.add_gates();
  problem.add_head_scales();
  problem.options.logit_cap = 5.0f;
  expect_shared_as_plain(problem);
  problem.plant_trees({2});
  expect_shared_as_plain(problem);
  problem.parents.clear();
  problem.options.causal = false;
  expect_shared_as_plain(problem);
}

TEST_F(CudaSharedPrefix, IsRefusedWhereNeighboursMayNotMatter) {
  const auto invariant = make_cuda_context("", true);
  AttentionLimits limits{2, 2, 10, 100};
  limits.shared_prefixes = true;
  EXPECT_ERROR(DeviceAttentionRows::create(*invariant, {4, 2, 16}, limits).status(), kUnsupported,
               "shared_prefixes is true", "batch_invariant");
}

TEST_F(CudaSharedPrefix, ACapturedStepOfTheBackendFollowsThePages) {
  constexpr std::int64_t kPages = 500;
  constexpr std::int32_t kRows = 8;
  const Stream stream;
  PagedWorld gpu(stream.context(), kRows, kPages), cpu(make_context(), kRows, kPages);
  gpu.backend = *PagedAttnBackend::create(
      *gpu.context, {{gpu.k[0].view(), gpu.k[1].view()}, {gpu.v[0].view(), gpu.v[1].view()}},
      {true, 0});
  GraphShape shape;
  shape.decode_rows = shape.tokens = kRows;
  shape.pages = 480;
  ASSERT_OK(gpu.backend->set_layers(gpu.described));
  const auto plan = *gpu.backend->plan_graph(shape), cpu_plan = *cpu.backend->plan_graph(shape);
  StreamGraph graph(stream, [&] { return gpu.launch(*plan); });
  for (const std::int64_t shared : {640, 0, 720}) {
    PageRows pages(PagedWorld::kPageSize, kPages, 1);
    std::vector<BatchRow> rows;
    for (std::int32_t r = 0; r < kRows; ++r) {
      rows.push_back(pages.row(RowKind::kDecode, 730 + 20 * r, 1));
      for (std::size_t i = 0; i < static_cast<std::size_t>(shared) / 16; ++i) {
        rows.back().pages[i] = rows[0].pages[i];
      }
    }
    const ForwardBatch batch = *ForwardBatch::create(rows);
    ASSERT_OK(gpu.backend->replan(*plan, batch));
    graph.launch();
    ASSERT_OK(cpu.backend->replan(*cpu_plan, batch));
    const auto got = gpu.results(), want = cpu.run(*cpu_plan);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(near(got[i], want[i], {8e-3, 6e-2})) << "layer " << i << ", " << shared;
    }
  }
}

}  // namespace
}  // namespace hybridattn::testing
