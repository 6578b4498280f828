// Between a plan and the end of its runs nothing is allocated, on the host or the device, and
// nobody waits for the device: not eagerly, not in a capture, not in a replay.
#include <algorithm>

#include "tests/cuda/device_watch.h"
#include "tests/cuda/paged_world.h"
#include "tests/cuda/stream_graph.h"
#include "tests/support/allocation_watch.h"
#include "tests/support/page_rows.h"

namespace hybridattn::testing {
namespace {

/// Memory of the device, as a context without an allocator takes it, and how often it was asked.
class CountedDeviceMemory final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    ++calls;
    void* data = nullptr;
    return cudaMalloc(&data, bytes) == cudaSuccess ? data : nullptr;
  }
  void deallocate(void* pointer, std::size_t) noexcept override {
    ++calls;
    cudaFree(pointer);
  }
  int calls = 0;
};

class CudaQuietRuns : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    stream = std::make_unique<Stream>();
  }

  PagedWorld make_world(std::int64_t tokens) {
    PagedWorld world(stream->context(false, &memory), tokens, kPages, GetParam());
    if (GetParam() == DType::kF8E4M3) {
      for (RadixAttention& layer : world.described) {
        layer.k_scales = layer.v_scales = world.scales.view();
      }
    }
    EXPECT_OK(world.backend->set_layers(world.described));
    return world;
  }
  /// Rows of few and of many queries, long enough to be cut into parts.
  ForwardBatch mixed() {
    PageRows pages(PagedWorld::kPageSize, kPages, 0);
    std::vector<BatchRow> rows{pages.row(RowKind::kDecode, 3000, 1),
                               pages.row(RowKind::kPrefill, 2000, 90),
                               pages.row(RowKind::kPad, 0, 2), pages.row(RowKind::kVerify, 500, 5),
                               pages.row(RowKind::kDecode, 0, 1)};
    rows[3].parents = {-1, 0, 0, 1, 2};
    return *ForwardBatch::create(rows);
  }

  static constexpr std::int64_t kPages = 400, kTokens = 99;
  std::unique_ptr<Stream> stream;
  CountedDeviceMemory memory;
};

INSTANTIATE_TEST_SUITE_P(Caches, CudaQuietRuns, ::testing::Values(DType::kBF16, DType::kF8E4M3),
                         [](const auto& param_info) {
                           return std::string(dtype_name(param_info.param));
                         });

TEST_P(CudaQuietRuns, TheWatchSeesWhatTheLibraryAsksFor) {
  const Stream other;
  ContextOptions options;
  options.device = DeviceType::kCuda;
  options.stream = other;
  auto made = Context::create(options);
  ASSERT_OK(made.status());
  const DeviceWatch watch;
  ASSERT_OK((*made)->reserve_workspace(1 << 20, 0));
  EXPECT_GE(watch.calls().allocations, 1);
  const int before = watch.calls().synchronisations;
  ASSERT_OK((*made)->synchronize());
  EXPECT_GT(watch.calls().synchronisations, before);
}

TEST_P(CudaQuietRuns, EagerFromTheFirstRunOn) {
  PagedWorld world = make_world(kTokens);
  const ForwardBatch batch = mixed();
  const auto plan = world.backend->plan(batch);
  ASSERT_OK(plan.status());
  const int before = memory.calls;
  std::int64_t least = 1 << 30;
  for (int i = 0; i < 5; ++i) {
    const DeviceWatch device;
    const AllocationWatch host;
    const Status ran = world.launch(**plan);
    least = std::min(least, host.count());
    EXPECT_EQ(device.calls().allocations, 0) << "run " << i;
    EXPECT_EQ(device.calls().synchronisations, 0) << "run " << i;
    ASSERT_OK(ran);
  }
  EXPECT_EQ(memory.calls, before);
  // The driver takes from the heap now and then, at first launches for one; this library would each
  // time.
  EXPECT_EQ(least, 0);
  EXPECT_OK(world.context->synchronize());
}

TEST_P(CudaQuietRuns, CapturedAsTheFirstRunAndReplayed) {
  PagedWorld world = make_world(kTokens);
  GraphShape shape;
  shape.decode_rows = 2;
  shape.prefill_rows = 2;  // padding of two tokens counts as one
  shape.verify_rows = 1;
  shape.tokens = kTokens;
  shape.pages = 380;
  const auto plan = world.backend->plan_graph(shape);
  ASSERT_OK(plan.status());
  const int before = memory.calls;
  StreamGraph graph(*stream, [&] { return world.launch(**plan); });
  EXPECT_EQ(memory.calls, before);
  const ForwardBatch batch = mixed();
  ASSERT_OK(world.backend->replan(**plan, batch));  // the ring of uploads grows once
  ASSERT_OK(world.context->synchronize());
  std::int64_t least = 1 << 30;
  for (int i = 0; i < 5; ++i) {
    const DeviceWatch device;
    const AllocationWatch host;
    const Status written = world.backend->replan(**plan, batch);
    const std::int64_t planned = host.count();
    EXPECT_EQ(device.calls().allocations, 0) << "replan " << i;
    const int waited = device.calls().synchronisations;
    graph.launch();
    EXPECT_EQ(device.calls().allocations, 0) << "replay " << i;
    EXPECT_EQ(device.calls().synchronisations, waited) << "replay " << i;
    least = std::min(least, planned);
    ASSERT_OK(written);
  }
  EXPECT_EQ(least, 0);
  EXPECT_EQ(memory.calls, before);
  EXPECT_OK(world.context->synchronize());
}

}  // namespace
}  // namespace hybridattn::testing
