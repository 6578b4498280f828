// The backend over a paged cache on the GPU: what the CPU's gives, planned once for several layers
// of several kinds, rewritten in place, committed.
#include <cmath>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/page_rows.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kPageSize = 16, kPages = 120, kHq = 8, kHk = 2, kDim = 64, kRotated = 32;

/// Two layers' caches and a step's tensors, the same for both devices.
struct World {
  explicit World(std::unique_ptr<Context> owner, std::int64_t tokens) : context(std::move(owner)) {
    Random random(3);
    for (auto* caches : {&k, &v}) {
      for (int i = 0; i < 2; ++i) {
        caches->emplace_back(DType::kBF16, Shape{kPages, kPageSize, kHk, kDim});
        caches->back().fill(random.values(caches->back().num_elements(), -1, 1));
      }
    }
    const auto make = [&](Buffer& x, const Shape& shape, DType dtype, double low = -1) {
      x = Buffer(dtype, shape);
      x.fill(random.values(x.num_elements(), low, 1));
    };
    make(q, {tokens, kHq, kDim}, DType::kBF16);
    make(new_k, {tokens, kHk, kDim}, DType::kBF16);
    make(new_v, {tokens, kHk, kDim}, DType::kBF16);
    make(gate, {tokens, kHq, kDim}, DType::kBF16);
    make(norm, {kDim}, DType::kBF16);
    make(cosine, {tokens, kRotated / 2}, DType::kF32);
    make(sine, {tokens, kRotated / 2}, DType::kF32);
    make(sinks, {kHq}, DType::kF32);
    auto made = PagedAttnBackend::create(*context,
                                         {{k[0].view(), k[1].view()}, {v[0].view(), v[1].view()}});
    EXPECT_OK(made.status());
    backend = std::move(made).value();
  }

  std::vector<RadixAttention> layers() {
    std::vector<RadixAttention> out(2);
    for (int i = 0; i < 2; ++i) {
      RadixAttention& layer = out[static_cast<std::size_t>(i)];
      layer.layer_id = 4 * i + 3;
      layer.kv_index = i;
      layer.num_heads = kHq;
      layer.num_kv_heads = kHk;
      layer.head_dim = layer.v_head_dim = kDim;
      layer.scaling = 0.125f;
    }
    out[1].sliding_window = 40;
    out[1].sinks = sinks.view();
    return out;
  }

  /// Both layers, one after the other.
  std::vector<std::vector<double>> run(const Plan& plan) {
    std::vector<std::vector<double>> results;
    for (const RadixAttention& layer : layers()) {
      Buffer out(DType::kBF16, q.shape());
      AttentionRunArgs args;
      args.q = q.view();
      args.k = new_k.view();
      args.v = new_v.view();
      args.out = out.view();
      args.q_norm = args.k_norm = norm.view();
      args.cos = cosine.view();
      args.sin = sine.view();
      args.gate = gate.view();
      EXPECT_OK(backend->run_attention(plan, layer, args));
      EXPECT_OK(context->synchronize());
      results.push_back(out.values());
    }
    return results;
  }

  std::unique_ptr<Context> context;
  std::vector<Buffer> k, v;
  Buffer q, new_k, new_v, gate, norm, cosine, sine, sinks;
  std::unique_ptr<PagedAttnBackend> backend;
};

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
