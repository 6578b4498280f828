// Each kernel of attention and of what stands around it once or twice, at sizes that end inside
// tiles: the reduced suite that scripts/sanitize_cuda runs under the checkers of memory and of
// races.
#include "src/ops/attention_plan.h"
#include "tests/cuda/attention_problem.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;

class CudaEveryKernel : public CudaAttention {
 protected:
  /// A call of a family against the plain form.
  void expect_family(const char* family, Problem& problem) {
    const auto forced = make_cuda_context(family);
    Buffer out = problem.make_out(problem.q.dtype()), lse = problem.make_lse();
    Buffer plain_out = problem.make_out(), plain_lse = problem.make_lse();
    ASSERT_OK(attention(*forced, problem.args(out, lse)));
    EXPECT_EQ(forced->last_kernel_target(), family);
    ASSERT_OK(attention(*plain_, problem.args(plain_out, plain_lse)));
    EXPECT_TRUE(near(out.values(), plain_out.values(), {8e-3, 6e-2})) << family;
    EXPECT_TRUE(near(finite(lse), finite(plain_lse), {3e-6, 3e-5})) << family;
  }
  static void add_everything(Problem& problem) {
    problem.add_sinks();
    problem.add_gates();
    if (problem.k.dtype() == DType::kF8E4M3) problem.add_head_scales();
    problem.options.logit_cap = 6.0f;
  }
};

/// Few and many rows, some cut into parts: every instance of the kernels over tiles.
TEST_F(CudaEveryKernel, EveryInstanceOverTiles) {
  for (const DType q : {DType::kBF16, DType::kF16}) {
    for (const std::int64_t dim : {64, 128, 256}) {
      for (const DType cache : {q, DType::kF8E4M3}) {
        Problem problem({{1, 700}, {35, 301}, {0, 5}, {3, 1}}, 7, dim, q, 6, 2, cache);
        expect_family("sm80", problem);
        if (cache == q) expect_family("sm90", problem);
      }
    }
  }
}

TEST_F(CudaEveryKernel, EveryFeature) {
  struct Kind {
    const char* family;
    DType cache;
  };
  for (const Kind& kind :
       {Kind{"sm90", DType::kBF16}, Kind{"sm80", DType::kBF16}, Kind{"sm80", DType::kF8E4M3}}) {
    for (const std::int64_t page : {0, 16}) {
      Problem problem({{1, 700}, {35, 301}, {9, 40}}, page, 128, DType::kBF16, 4, 1, kind.cache);
      add_everything(problem);
      expect_family(kind.family, problem);
      problem.options.window = 50;
      problem.plant_trees({1, 2});
      expect_family(kind.family, problem);
      problem.parents.clear();
      problem.options.window = -1;
      problem.options.causal = false;
      expect_family(kind.family, problem);
      // Few rows alone: gated where they are written, or where their parts are joined.
      Problem few({{1, 700}, {2, 30}, {1, 2}}, page, 128, DType::kBF16, 4, 1, kind.cache);
      add_everything(few);
      expect_family(kind.family, few);
    }
  }
}

/// So many tiles that a long row's parts are added up by the last block that writes one.
TEST_F(CudaEveryKernel, PartsThatTheLastBlockAddsUp) {
  for (const auto& [queries, rows] : {std::pair{1, 60}, std::pair{35, 16}}) {
    std::vector<AttentionRow> list(static_cast<std::size_t>(rows), {queries, queries + 40});
    list[3] = {queries, 8192};
    Problem problem(list, 16, 64, DType::kBF16, 4, 2);
    ops::AttentionSchedule schedule;
    ops::schedule_attention(problem.view(problem.rows),
                            ops::attention_cut(context(), problem.heads()), schedule);
    const auto& work = queries == 1 ? schedule.few : schedule.many;
    EXPECT_GT(std::count_if(work.begin(), work.end(), [](const auto& w) { return w.parts > 1; }),
              1);
    EXPECT_TRUE(schedule.joins.empty());
    for (const char* family : {"sm80", "sm90"}) {
      if (queries > 1 || std::string_view(family) == "sm80") expect_family(family, problem);
    }
  }
}

TEST_F(CudaEveryKernel, SharedPrefixes) {
  Problem problem({{1, 700}, {1, 750}, {1, 721}}, 16, 64, DType::kBF16, 8, 1);
  KvRows rows;
  for (std::size_t r = 0; r < 3; ++r) {
    std::copy_n(problem.pages_of[0].begin(), 43, problem.pages_of[r].begin());
    rows.add(static_cast<std::int32_t>(r), 1, problem.list[r].keys, problem.pages_of[r]);
  }
  problem.rows = rows;
  AttentionLimits limits{3, 3, 200, 800};
  limits.shared_prefixes = true;
  limits.least_saved = 0;
  auto placed = DeviceAttentionRows::create(context(), problem.heads(), limits);
  ASSERT_OK(placed.status());
  ASSERT_OK((*placed)->write(problem.view(rows)));
  Buffer out = problem.make_out(), lse = problem.make_lse();
  Buffer plain_out = problem.make_out(), plain_lse = problem.make_lse();
  AttentionArgs args = problem.args(out, lse);
  args.rows = (*placed)->rows();
  ASSERT_OK(attention(context(), args));
  ASSERT_OK(attention(*plain_, problem.args(plain_out, plain_lse)));
  EXPECT_TRUE(near(out.values(), plain_out.values(), {4e-3, 3e-2}));
}

TEST_F(CudaEveryKernel, WhatStandsAroundAttention) {
  Random random(3);
  for (const std::int64_t dim : {64, 37}) {  // in packs, and one by one
    Buffer q(DType::kBF16, {5, 4, dim}), k(DType::kBF16, {5, 2, dim}), weight(DType::kBF16, {dim});
    Buffer cosine(DType::kF32, {5, 8}), sine = cosine, scales(DType::kF32, {2});
    for (Buffer* x : {&q, &k, &weight, &cosine, &sine}) {
      x->fill(random.values(x->num_elements(), -1, 1));
    }
    scales.fill({0.5, 2});
    Buffer q_out = q, keys(DType::kF8E4M3, {3, 4, 2, dim}), values = keys;
    const std::vector<std::int64_t> places{3, kPadIndex, 11, 0, 6};
    QkNormRopeStoreArgs fused;
    fused.q = q.view();
    fused.k = fused.v = k.view();
    fused.q_norm = fused.k_norm = weight.view();
    fused.cos = cosine.view();
    fused.sin = sine.view();
    fused.q_out = q_out.view();
    fused.token_slots = places.data();
    fused.k_cache = keys.view();
    fused.v_cache = values.view();
    fused.k_scales = fused.v_scales = scales.view();
    ASSERT_OK(qk_norm_rope_store(context(), fused));
    Buffer stored(DType::kF8E4M3, {3, 4, 2, dim}), other = stored;
    StoreKvArgs store{k.view(), k.view(), places.data(), other.view(), stored.view()};
    store.k_scales = store.v_scales = scales.view();
    ASSERT_OK(store_kv(context(), store));
    EXPECT_EQ(stored.memory(), values.memory());
    const std::vector<std::int64_t> from{3, 0}, to{1, 2};
    ASSERT_OK(copy_kv(context(), {keys.view(), values.view(), from.data(), to.data(), 2}));
    Buffer gated = q;
    ASSERT_OK(sigmoid_gate(context(), {q.view(), q_out.view(), gated.view()}));
    Buffer lse_a(DType::kF32, {5, 4}), lse_b = lse_a, merged = q, merged_lse = lse_a;
    lse_a.fill(random.values(20, -3, 3));
    lse_b.fill(random.values(20, -3, 3));
    ASSERT_OK(merge_states(context(), {q.view(), lse_a.view(), gated.view(), lse_b.view(),
                                       merged.view(), merged_lse.view()}));
    for (const double value : merged.values()) EXPECT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace hybridattn::testing
