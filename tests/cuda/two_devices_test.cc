// Contexts of two devices on one thread: whatever device is the thread's, work goes to the
// context's own, and the thread keeps its device.
#include <cuda_runtime_api.h>

#include "tests/cuda/attention_problem.h"

namespace hybridattn::testing {
namespace {

class CudaTwoDevices : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (!cuda_present() || cudaGetDeviceCount(&devices) != cudaSuccess || devices < 2) {
      GTEST_SKIP() << "there are " << devices << " CUDA devices, this needs two";
    }
  }
  void TearDown() override { cudaSetDevice(0); }

  static std::unique_ptr<Context> context_on(int device) {
    ContextOptions options;
    options.device = DeviceType::kCuda;
    options.device_index = device;
    auto made = Context::create(options);
    EXPECT_OK(made.status());
    return std::move(made).value();
  }
  static int current() {
    int device = -1;
    EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
    return device;
  }
};

/// Rows for both kinds of kernels, which ask for more shared memory than all blocks may have: each
/// device is to be told.
TEST_F(CudaTwoDevices, KernelsRunOnTheContextsOwn) {
  AttentionProblem problem({{1, 3000}, {90, 700}}, 16, 256);
  Buffer want = problem.make_out(), want_lse = problem.make_lse();
  const auto plain = make_cuda_context("smxx");
  ASSERT_OK(attention(*plain, problem.args(want, want_lse)));
  for (const int own : {1, 0}) {
    const auto context = context_on(own);
    for (const int current_one : {0, 1}) {
      ASSERT_EQ(cudaSetDevice(current_one), cudaSuccess);
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(*context, problem.args(out, lse)));
      ASSERT_OK(context->synchronize());
      EXPECT_TRUE(near(out.values(), want.values(), {4e-3, 3.2e-2})) << own << ", " << current_one;
      EXPECT_EQ(current(), current_one);
    }
  }
}

TEST_F(CudaTwoDevices, GraphsToo) {
  AttentionProblem problem({{1, 3000}, {90, 700}}, 16, 256);
  const auto context = context_on(1);
  AttentionLimits limits{2, 91, 400, 3000};
  limits.cache_pages = problem.k.shape()[0];
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  const auto rows = DeviceAttentionRows::create(*context, problem.heads(), limits);
  ASSERT_OK(rows.status());
  ASSERT_OK((*rows)->write(problem.view(problem.rows)));
  Buffer out = problem.make_out(), lse = problem.make_lse();
  AttentionArgs args = problem.args(out, lse);
  args.rows = (*rows)->rows();
  ASSERT_OK(attention(*context, args));
  ASSERT_OK(context->synchronize());
  const auto eager = out.values();
  const auto graph = Graph::record(*context, [&] { return attention(*context, args); });
  ASSERT_OK(graph.status());
  std::fill(out.memory().begin(), out.memory().end(), Byte{0xff});
  ASSERT_OK((*graph)->replay());
  ASSERT_OK(context->synchronize());
  EXPECT_EQ(out.values(), eager);
  EXPECT_EQ(current(), 0);
}

}  // namespace
}  // namespace hybridattn::testing
