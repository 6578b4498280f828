// Captured calls of attention: a graph follows the rows that are written before each replay,
// whatever kernels they need, with what earlier replays left in the workspace.
#include "src/ops/attention_plan.h"
#include "tests/cuda/attention_problem.h"
#include "tests/cuda/stream_graph.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;

/// A context on a stream of its own, and a graph of one call.
class CudaAttentionGraphs : public CudaAttention {
 protected:
  void SetUp() override {
    CudaAttention::SetUp();
    if (IsSkipped()) return;
    stream_ = std::make_unique<Stream>();
    captured_ = stream_->context();
  }

  /// A context whose kernels are of a family.
  void force(const char* family) {
    graph_.reset();
    rows_.reset();
    ContextOptions options;
    options.kernel_family = family;
    captured_ = stream_->context(options);
  }

  /// Captures one call over rows of these limits. Its queries are those of the problem.
  void capture(Problem& problem, AttentionLimits limits) {
    limits.cache_pages = problem.k.shape()[0];
    auto rows = DeviceAttentionRows::create(*captured_, problem.heads(), limits);
    ASSERT_OK(rows.status());
    rows_ = std::move(*rows);
    out_ = problem.make_out();
    lse_ = problem.make_lse();
    AttentionArgs args = problem.args(out_, lse_);
    args.rows = rows_->rows();
    ASSERT_OK(attention(*captured_, args));  // grows the workspace
    ASSERT_OK(captured_->synchronize());
    graph_ = std::make_unique<StreamGraph>(*stream_, [&] { return attention(*captured_, args); });
  }

  /// Replays with these rows, each over the first keys of the problem's row of the same number, and
  /// holds the outputs against an eager call of the plain form.
  void replay(Problem& problem, const std::vector<AttentionRow>& list, double bound = 4e-3) {
    KvRows now;
    std::int32_t token = 0;
    for (std::size_t r = 0; r < list.size(); ++r) {
      now.add(token, list[r].queries, list[r].keys, problem.pages_of[r]);
      token += list[r].queries;
    }
    ASSERT_OK(rows_->write(problem.view(now)));
    poison_workspace(*captured_);  // what earlier replays left there
    for (Buffer* x : {&out_, &lse_}) std::fill(x->memory().begin(), x->memory().end(), Byte{0xff});
    graph_->launch();
    ASSERT_OK(captured_->synchronize());
    Buffer plain_out = problem.make_out(), plain_lse = problem.make_lse();
    AttentionArgs plain = problem.args(plain_out, plain_lse);
    plain.rows = problem.view(now);
    ASSERT_OK(attention(*plain_, plain));
    const auto heads = static_cast<std::ptrdiff_t>(problem.q.shape()[1]);
    const std::ptrdiff_t queries = token * heads, count = queries * problem.q.shape()[2];
    const auto first = [](const std::vector<double>& values, std::ptrdiff_t some) {
      return std::vector<double>(values.begin(), values.begin() + some);
    };
    EXPECT_TRUE(
        near(first(out_.values(), count), first(plain_out.values(), count), {bound, 8 * bound}));
    EXPECT_TRUE(
        near(first(finite(lse_), queries), first(finite(plain_lse), queries), {3e-6, 3e-5}));
    for (std::int64_t t = token; t < problem.q.shape()[0]; ++t) {
      ASSERT_TRUE(out_.is_poison({t}) && lse_.is_poison({t})) << "nobody's query " << t;
    }
  }

  /// Pieces of work of these rows: for few, for many, joins of each.
  struct Counted {
    std::size_t few, many, joins_of_few, joins_of_many;
  };
  Counted count(const Problem& problem, const std::vector<AttentionRow>& list) {
    KvRows now;
    for (std::size_t r = 0; r < list.size(); ++r) {
      now.add(0, list[r].queries, list[r].keys, problem.pages_of[r]);
    }
    ops::AttentionSchedule schedule;
    ops::schedule_attention(problem.view(now), ops::attention_cut(*captured_, problem.heads()),
                            schedule);
    Counted out{schedule.few.size(), schedule.many.size(), 0, 0};
    for (const ops::AttentionJoin& join : schedule.joins) {
      ++(join.tile == ops::kAttentionFewRows ? out.joins_of_few : out.joins_of_many);
    }
    return out;
  }

  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Context> captured_;
  std::unique_ptr<DeviceAttentionRows> rows_;
  std::unique_ptr<StreamGraph> graph_;
  Buffer out_, lse_;
};

TEST_F(CudaAttentionGraphs, DecodeRowsThatShrinkAndGrow) {
  Problem problem({{1, 4096}, {1, 4096}, {1, 4096}}, 16, 256, DType::kBF16, 8, 1);
  capture(problem, {3, 3, 768, 4096, 1});
  replay(problem, {{1, 1}, {1, 4096}, {1, 17}});
  replay(problem, {{1, 4096}, {1, 1}, {1, 0}});
  replay(problem, {{1, 17}, {1, 17}, {1, 17}});
  replay(problem, {{1, 2}, {1, 0}});
  replay(problem, {});
}

/// Parts that the last block of a tile adds up: its counters are as they were after every replay.
TEST_F(CudaAttentionGraphs, PartsThatTheLastBlockAddsUp) {
  std::vector<AttentionRow> list(60, {1, 300});
  list[7] = {1, 8192};
  list[30] = {1, 5000};
  Problem problem(list, 16, 64, DType::kBF16, 4, 2);
  capture(problem, {60, 60, 2000, 8192, 1});
  std::vector<AttentionRow> shorter = list, few{{1, 20}, {1, 300}};
  shorter[7] = {1, 100};
  for (const auto& step : {list, list, shorter, few, list}) replay(problem, step);
  EXPECT_EQ(count(problem, list).joins_of_few, 0u);
  EXPECT_GT(count(problem, list).few, list.size());
}

TEST_F(CudaAttentionGraphs, PartsOfManyRowsThatTheLastBlockAddsUp) {
  std::vector<AttentionRow> list(16, {35, 75});
  list[3] = {35, 8192};
  list[9] = {35, 5000};
  Problem problem(list, 16, 64, DType::kBF16, 4, 2);
  std::vector<AttentionRow> shorter = list, few{{1, 20}, {1, 70}};
  shorter[3] = {35, 100};
  for (const char* family : {"sm80", "sm90"}) {
    force(family);
    capture(problem, {16, 16 * 35, 1000, 8192});
    for (const auto& step : {list, list, shorter, few, list}) replay(problem, step);
    EXPECT_EQ(captured_->last_kernel_target(), family);
  }
  EXPECT_EQ(count(problem, list).joins_of_many, 0u);
  EXPECT_GT(count(problem, list).many, list.size());
}

TEST_F(CudaAttentionGraphs, RowsThatMayNameMoreThanTheCachesHoldAreNotCaptured) {
  Problem problem({{1, 40}}, 16, 64);
  Buffer out = problem.make_out(), lse = problem.make_lse();
  AttentionLimits limits{1, 1, 8, 64};
  const auto refusal = [&] {
    auto rows = DeviceAttentionRows::create(*captured_, problem.heads(), limits);
    AttentionArgs args = problem.args(out, lse);
    args.rows = (*rows)->rows();
    Status said;
    const StreamGraph graph(*stream_, [&] {
      said = attention(*captured_, args);
      return Status();
    });
    return said;
  };
  EXPECT_ERROR(refusal(), kFailedPrecondition, "cache_pages", "is 0");
  limits.cache_pages = problem.k.shape()[0] + 1;
  EXPECT_ERROR(refusal(), kOutOfRange, "pages up to");
  limits.cache_pages = problem.k.shape()[0];
  auto rows = DeviceAttentionRows::create(*captured_, problem.heads(), limits);
  ASSERT_OK(rows.status());
  KvRows beyond;
  beyond.add(0, 1, 10, {static_cast<std::int32_t>(limits.cache_pages)});
  EXPECT_ERROR((*rows)->write(beyond.view(true)), kOutOfRange, "page");
}

TEST_F(CudaAttentionGraphs, AnEagerCallInACaptureIsRefused) {
  Problem problem({{1, 40}}, 16, 64);
  Buffer out = problem.make_out(), lse = problem.make_lse();
  auto rows = DeviceAttentionRows::create(*captured_, problem.heads(), {1, 1, 8, 64});
  ASSERT_OK(rows.status());
  const StreamGraph graph(*stream_, [&] {
    EXPECT_ERROR(attention(*captured_, problem.args(out, lse)), kFailedPrecondition, "captured",
                 "null");
    EXPECT_ERROR((*rows)->write(problem.rows.view(true)), kFailedPrecondition, "captured");
    return Status();
  });
}

/// One graph over rows of all kinds: few, many, both, with and without keys that blocks share.
TEST_F(CudaAttentionGraphs, FewAndManyRowsAndTheirJoins) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{100, 5000}, {100, 3000}, {60, 6000}, {40, 400}}, 16, 128, DType::kBF16, 4, 1,
                    cache);
    problem.add_sinks();
    problem.add_gates();
    capture(problem, {4, 300, 1000, 6000});
    const std::vector<std::vector<AttentionRow>> steps{
        {{100, 5000}, {100, 3000}, {60, 6000}, {40, 400}},  // many alone
        {{1, 5000}, {1, 17}, {1, 6000}, {1, 400}},          // few alone
        {{1, 5000}, {100, 3000}, {2, 9}, {40, 40}},         // both
        {{1, 1}, {0, 0}, {3, 2}, {8, 8}},                   // hardly anything
        {{100, 100}, {100, 101}, {60, 6000}, {1, 1}}};
    EXPECT_EQ(count(problem, steps[0]).few, 0u);
    EXPECT_GT(count(problem, steps[0]).joins_of_many, 0u);
    EXPECT_EQ(count(problem, steps[1]).many, 0u);
    EXPECT_GT(count(problem, steps[1]).joins_of_few, 0u);
    EXPECT_GT(count(problem, steps[2]).few, 0u);
    EXPECT_GT(count(problem, steps[2]).many, 0u);
    for (const std::size_t step : {0, 1, 2, 3, 4, 1, 0, 3, 2}) replay(problem, steps[step]);
  }
}

TEST_F(CudaAttentionGraphs, RowsOfAWindowAndOfTrees) {
  Problem problem({{64, 3000}, {1, 5000}, {30, 700}}, 64, 64, DType::kF16, 8, 2);
  problem.options.window = 500;
  capture(problem, {3, 95, 200, 5000});
  replay(problem, {{64, 3000}, {1, 5000}, {30, 700}}, 1e-3);
  problem.plant_trees({0, 2});
  replay(problem, {{64, 3000}, {1, 5000}, {30, 700}}, 1e-3);
  problem.parents.clear();
  replay(problem, {{64, 64}, {1, 499}, {30, 501}}, 1e-3);
}

using F48IgnoredOptionInAReplayOnCuda = CudaAttentionGraphs;

/// Rows of all kinds, held against the plain form, which F48IgnoredOptionOnCuda holds.
TEST_F(F48IgnoredOptionInAReplayOnCuda, EveryOptionHolds) {
  using Set = void (*)(Problem&);
  for (const char* family : {"sm90", "sm80", "smxx"}) {
    for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
      if (cache == DType::kF8E4M3 && std::string_view(family) == "sm90") continue;
      force(family);
      std::vector<Set> options{[](Problem& p) { p.options.logit_cap = 1.0f; },
                               [](Problem& p) { p.options.window = 20; },
                               [](Problem& p) { p.add_sinks(); }, [](Problem& p) { p.add_gates(); },
                               [](Problem& p) { p.options.k_scale = p.options.v_scale = 0.5f; }};
      if (cache == DType::kF8E4M3) options.push_back([](Problem& p) { p.add_head_scales(); });
      for (const Set& set : options) {
        Problem problem({{1, 900}, {60, 700}, {9, 500}, {1, 3000}}, 16, 128, DType::kBF16, 6, 2,
                        cache);
        problem.plant_trees({2});
        set(problem);
        capture(problem, {4, 71, 400, 3000});
        replay(problem, problem.list);
        EXPECT_EQ(captured_->last_kernel_target(), family);
      }
    }
  }
}

/// What one query sees begins, or ends, with a part or a tile of keys where its neighbours in the
/// tile see nothing.
TEST_F(CudaAttentionGraphs, ChunkInvariantDraftsHaveTheBitsOfDecodes) {
  constexpr std::int32_t kDrafts = 5, kFirst = 4094;
  ContextOptions options;
  options.chunk_invariant = true;
  captured_ = stream_->context(options);
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const std::int32_t window : {-1, 2, 300}) {
      Problem problem({{kDrafts, kFirst + kDrafts - 1}}, 16, 256, DType::kBF16, 8, 1, cache);
      problem.options.window = window;
      problem.add_gates();
      capture(problem, {kDrafts, kDrafts, 2000, 4200});
      replay(problem, problem.list, 8e-3);
      const auto out = out_.values(), lse = lse_.values();
      KvRows decodes;
      for (std::int32_t i = 0; i < kDrafts; ++i) {
        decodes.add(i, 1, kFirst + i, problem.pages_of[0]);
      }
      ASSERT_OK(rows_->write(problem.view(decodes)));
      graph_->launch();
      ASSERT_OK(captured_->synchronize());
      EXPECT_EQ(out_.values(), out) << "window " << window << ", " << dtype_name(cache);
      EXPECT_EQ(lse_.values(), lse) << "window " << window << ", " << dtype_name(cache);
    }
  }
}

TEST_F(CudaAttentionGraphs, BatchInvariantReplaysHaveTheBitsOfEagerCalls) {
  captured_ = stream_->context(true);
  const auto eager = make_cuda_context("", true);
  Problem problem({{1, 3000}, {90, 2000}, {1, 40}}, 16, 128, DType::kBF16, 4, 1);
  capture(problem, {3, 92, 400, 3000});
  replay(problem, problem.list);
  Buffer out = problem.make_out(), lse = problem.make_lse();
  ASSERT_OK(attention(*eager, problem.args(out, lse)));
  EXPECT_EQ(out.memory(), out_.memory());
  EXPECT_EQ(lse.memory(), lse_.memory());
}

}  // namespace
}  // namespace hybridattn::testing
