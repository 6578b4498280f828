// Graphs of the library on the GPU: captured streams. What graphs promise on both devices is tested
// by the tests of GraphRunner and of the faults, which run here with HYBRIDATTN_TEST_DEVICE=cuda.
#include "hybridattn/graph.h"

#include "hybridattn/hybridattn.h"
#include "tests/cuda/stream_graph.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

class CudaGraph : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    stream = std::make_unique<Stream>();
    context = stream->context();
    x = Buffer(DType::kF32, {4, 64});
    weight = Buffer(DType::kF32, {64});
    out = Buffer(DType::kF32, {4, 64});
    x.fill(random.values(256, -1, 1));
    weight.fill(random.values(64, -1, 1));
  }
  Status norm() { return rms_norm(*context, {x.view(), weight.view(), out.view()}); }
  std::vector<double> result() {
    EXPECT_OK(context->synchronize());
    return out.values();
  }

  Random random{3};
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Context> context;
  Buffer x, weight, out;
};

TEST_F(CudaGraph, RecordingRunsNothingAndReplaysReadWhatIsThere) {
  const auto graph = Graph::record(*context, [&] { return norm(); });
  ASSERT_OK(graph.status());
  ASSERT_OK(context->synchronize());
  EXPECT_TRUE(out.is_poison({}));
  EXPECT_EQ((*graph)->num_calls(), 1u);
  for (int i = 0; i < 2; ++i) {
    x.fill(random.values(256, -1, 1));
    ASSERT_OK((*graph)->replay());
    const auto replayed = result();
    ASSERT_OK(norm());
    EXPECT_EQ(replayed, result());
  }
  EXPECT_EQ((*graph)->num_replays(), 2u);
}

TEST_F(CudaGraph, WhatTheCallerOrdersOnTheStreamIsRepeated) {
  int calls = 0;
  const auto graph = Graph::record(*context, [&] {
    if (const Status status = norm(); !status.ok()) return status;
    return run_or_record(*context, "clear", [&] {
      ++calls;
      cudaMemsetAsync(out.view().data, 0, 64 * sizeof(float), *stream);
      return Status();
    });
  });
  ASSERT_OK(graph.status());
  EXPECT_EQ(calls, 1) << "it is called to be captured";
  ASSERT_OK((*graph)->replay());
  EXPECT_EQ(calls, 1);
  const auto first = result();
  EXPECT_EQ(std::vector<double>(first.begin(), first.begin() + 64), std::vector<double>(64, 0.0));
  EXPECT_NE(first[64], 0.0);
}

TEST_F(CudaGraph, HostArraysAreRefusedAndTheContextGoesOn) {
  Buffer pool(DType::kF32, {4, 16});
  const std::int32_t slot = 1;
  EXPECT_ERROR(Graph::record(*context,
                             [&] {
                               return zero_slots(*context, {pool.view(), &slot, 1});
                             })
                   .status(),
               kFailedPrecondition, "upload: 4 bytes of host arrays", "while a graph is captured");
  EXPECT_ERROR(Graph::record(*context,
                             [&] {
                               static_cast<void>(norm());
                               return invalid_argument("the function's own");
                             })
                   .status(),
               kInvalidArgument, "the function's own");
  EXPECT_THROW(static_cast<void>(Graph::record(*context, []() -> Status { throw 1; })), int);
  ASSERT_OK(norm());
  ASSERT_OK(context->synchronize());
  EXPECT_FALSE(out.is_poison({}));
}

TEST_F(CudaGraph, AWorkspaceThatMustGrowIsRefused) {
  Buffer q(DType::kBF16, {70, 2, 128}), v(DType::kBF16, {70, 4, 128}), o(DType::kBF16, v.shape());
  Buffer decay(DType::kF32, {70, 4}), beta = decay, state(DType::kF32, {2, 4, 128, 128});
  const auto rows = DeviceRows::create(*context, 1, 70);
  ASSERT_OK(rows.status());
  EXPECT_ERROR(Graph::record(*context,
                             [&] {
                               return gdn_prefill(*context, {(*rows)->rows(), q.view(), q.view(),
                                                             v.view(), decay.view(), beta.view(),
                                                             state.view(), o.view(), 0.1f, true});
                             })
                   .status(),
               kFailedPrecondition, "must grow to", "while a graph is captured");
  ASSERT_OK(context->synchronize());
}

TEST_F(CudaGraph, ACallWhoseWaitBreaksTheCaptureIsAnError) {
  const auto graph = Graph::record(*context, [&] {
    cudaStreamSynchronize(*stream);
    return Status();
  });
  EXPECT_ERROR(graph.status(), kDeviceError, "Graph::record");
  ASSERT_OK(norm());
  ASSERT_OK(context->synchronize());
}

TEST_F(CudaGraph, OneIsDestroyedTheOtherReplays) {
  auto one = Graph::record(*context, [&] { return norm(); });
  auto other = Graph::record(*context, [&] { return norm(); });
  ASSERT_OK(one.status());
  ASSERT_OK(other.status());
  ASSERT_OK((*one)->replay());
  one->reset();
  ASSERT_OK((*other)->replay());
  ASSERT_OK(norm());
  ASSERT_OK(context->synchronize());
}

/// A plan that is captured as the first thing that the process's context does on the device.
TEST_F(CudaGraph, AHybridStepAsTheFirstCall) {
  WorldOptions options;
  options.device = DeviceType::kCuda;
  options.kept = 8;
  HybridWorld world(options);
  const auto plan = world.backend->plan_graph({1, 2, 1, 24, 32});
  ASSERT_OK(plan.status());
  const auto graph = Graph::record(*world.context, [&] { return world.run(**plan); });
  ASSERT_OK(graph.status());
  EXPECT_ERROR((*graph)->replay(), kFailedPrecondition, "not rewritten");
  const auto batch = ForwardBatch::create({{RowKind::kVerify, 1, {0, 1}, 2, 3},
                                           {RowKind::kDecode, 2, {2}, 0, 1},
                                           {RowKind::kPrefill, 0, {3, 4, 5}, 0, 9}});
  ASSERT_OK(batch.status());
  for (std::int32_t t = 0; t < 13; ++t) world.feed(1, t, t);
  ASSERT_OK(world.backend->replan(**plan, *batch));
  ASSERT_OK((*graph)->replay());
  EXPECT_ERROR(world.backend->replan(**plan, *batch), kFailedPrecondition, "not committed");
  ASSERT_OK(world.backend->commit(**plan, std::vector<std::int32_t>{1, -1, -1}));
  EXPECT_OK(world.backend->replan(**plan, *batch));
}

}  // namespace
}  // namespace hybridattn::testing
