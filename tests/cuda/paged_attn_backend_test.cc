// The backend over a paged cache on the GPU: what the CPU's gives, planned once for several layers
// of several kinds, rewritten in place, committed.
#include "tests/cuda/paged_world.h"
#include "tests/support/page_rows.h"

namespace hybridattn::testing {
namespace {

using World = PagedWorld;

constexpr std::int64_t kPageSize = World::kPageSize, kPages = 120;

class CudaPagedAttnBackend : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
  }

  BatchRow row(RowKind kind, std::int64_t computed, std::int32_t tokens) {
    return page_rows_.row(kind, computed, tokens);
  }
  std::vector<BatchRow> mixed() {
    std::vector<BatchRow> rows{row(RowKind::kDecode, 300, 1), row(RowKind::kPrefill, 20, 70),
                               row(RowKind::kPad, 0, 2), row(RowKind::kVerify, 90, 5),
                               row(RowKind::kDecode, 0, 1)};
    rows[3].parents = {-1, 0, 0, 1, 2};
    return rows;
  }

  static void expect_alike(const std::vector<std::vector<double>>& got,
                           const std::vector<std::vector<double>>& want) {
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(near(got[i], want[i], {8e-3, 6e-2})) << "layer " << i;
    }
  }

 private:
  PageRows page_rows_{kPageSize, kPages, 0};
};

TEST_F(CudaPagedAttnBackend, OneStepOfAllKindsIsAsOnTheCpu) {
  World gpu(make_cuda_context(), 79), cpu(make_context(), 79);
  auto batch = ForwardBatch::create(mixed());
  ASSERT_OK(batch.status());
  std::vector<std::vector<std::vector<double>>> results;
  for (World* world : {&gpu, &cpu}) {
    ASSERT_OK(world->backend->set_layers(world->layers()));
    auto plan = world->backend->plan(*batch);
    ASSERT_OK(plan.status());
    results.push_back(world->run(**plan));
    ASSERT_OK(world->backend->commit(**plan, std::vector<std::int32_t>{-1, -1, -1, 4, -1}));
  }
  expect_alike(results[0], results[1]);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(near(gpu.k[i].values(), cpu.k[i].values(), {1e-3, 2e-2}));
    EXPECT_EQ(gpu.v[i].values(), cpu.v[i].values()) << "values, moved by the commit too";
  }
}

TEST_F(CudaPagedAttnBackend, APlanForGraphsIsRewrittenInPlace) {
  World gpu(make_cuda_context(), 4), cpu(make_context(), 4);
  GraphShape shape;
  shape.decode_rows = shape.tokens = 4;
  shape.pages = 60;
  auto gpu_plan = gpu.backend->plan_graph(shape), cpu_plan = cpu.backend->plan_graph(shape);
  ASSERT_OK(gpu_plan.status());
  ASSERT_OK(cpu_plan.status());
  for (const std::vector<std::int64_t>& computed :
       std::vector<std::vector<std::int64_t>>{{1, 400, 17, 30}, {5}, {300, 0}, {}}) {
    std::vector<BatchRow> rows;
    for (const std::int64_t keys : computed) rows.push_back(row(RowKind::kDecode, keys, 1));
    auto batch = ForwardBatch::create(rows);
    ASSERT_OK(batch.status());
    ASSERT_OK(gpu.backend->replan(**gpu_plan, *batch));
    ASSERT_OK(cpu.backend->replan(**cpu_plan, *batch));
    expect_alike(gpu.run(**gpu_plan), cpu.run(**cpu_plan));
  }
}

TEST_F(CudaPagedAttnBackend, KindsOfLayersThatComeAfterAPlanIsGone) {
  World gpu(make_cuda_context(), 79), again(make_cuda_context(), 79);
  auto batch = ForwardBatch::create(mixed());
  ASSERT_OK(batch.status());
  const auto layers = gpu.layers();
  ASSERT_OK(gpu.backend->set_layers(std::span(layers).first(1)));
  ASSERT_OK(gpu.backend->plan(*batch).status());  // its arrays go with it
  ASSERT_OK(gpu.backend->set_layers(layers));
  auto plan = gpu.backend->plan(*batch);
  ASSERT_OK(plan.status());
  ASSERT_OK(again.backend->set_layers(layers));
  auto fresh = again.backend->plan(*batch);
  ASSERT_OK(fresh.status());
  EXPECT_EQ(gpu.run(**plan), again.run(**fresh));
}

TEST_F(CudaPagedAttnBackend, ALayerOfAKindThatNobodySetIsNotCaptured) {
  World gpu(make_cuda_context(), 4);
  const auto layers = gpu.layers();
  ASSERT_OK(gpu.backend->set_layers(std::span(layers).first(1)));
  GraphShape shape;
  shape.decode_rows = shape.tokens = 4;
  shape.pages = 60;
  auto plan = gpu.backend->plan_graph(shape);
  ASSERT_OK(plan.status());
  EXPECT_ERROR(Graph::record(*gpu.context, [&] { return gpu.launch(**plan); }).status(),
               kFailedPrecondition, "no layer given to set_layers", "window 40");
}

TEST_F(CudaPagedAttnBackend, SeveralPlansLiveAtOnce) {
  World gpu(make_cuda_context(), 79), again(make_cuda_context(), 79);
  auto first = ForwardBatch::create(mixed());
  std::vector<BatchRow> others;
  for (int i = 0; i < 79; ++i) others.push_back(row(RowKind::kDecode, i % 7, 1));
  for (std::size_t i = 0; i < others.size(); ++i) {
    others[i].pages = {static_cast<std::int32_t>(i)};
  }
  auto second = ForwardBatch::create(others);
  ASSERT_OK(first.status());
  ASSERT_OK(second.status());
  auto one = gpu.backend->plan(*second), two = gpu.backend->plan(*first);
  ASSERT_OK(one.status());
  ASSERT_OK(two.status());
  const auto late = gpu.run(**one);
  auto alone = again.backend->plan(*second);
  ASSERT_OK(alone.status());
  EXPECT_EQ(late, again.run(**alone));
}

}  // namespace
}  // namespace hybridattn::testing
