// Pools and the budget: bytes are what is allocated, layers do not overlap.
#include <algorithm>

#include <gtest/gtest.h>

#include "hybridattn/cache_budget.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

PagedKvShape kv_shape() { return {3, 7, 2, 24, 40, DType::kBF16}; }
GdnStateShape gdn_shape() { return {2, 4, 32, 16, 192, 4, DType::kF32, DType::kBF16}; }

class Pools : public ::testing::Test {
 protected:
  void SetUp() override {
    ContextOptions options;
    options.allocator = &memory;
    context = *Context::create(options);
  }
  CountingAllocator memory;
  std::unique_ptr<Context> context;
};

TEST_F(Pools, KvBytesAreWhatIsAllocated) {
  {
    const auto pool = *PagedKvPool::create(*context, kv_shape(), 11);
    EXPECT_EQ(kv_shape().page_bytes(), 3 * 7 * 2 * (24 + 40) * 2);
    EXPECT_EQ(pool->bytes(), 11 * kv_shape().page_bytes());
    EXPECT_EQ(static_cast<std::size_t>(pool->bytes()), memory.held);
    EXPECT_EQ(pool->pages().capacity(), 11);
    EXPECT_OK(pool->check());
  }
  EXPECT_EQ(memory.held, 0u);
}

TEST_F(Pools, GdnBytesAreWhatIsAllocated) {
  {
    const auto pool = *GdnStatePool::create(*context, gdn_shape(), 5);
    EXPECT_EQ(gdn_shape().slot_bytes(), 2 * (4 * 32 * 16 * 4 + 192 * 3 * 2));
    EXPECT_EQ(pool->bytes(), 5 * gdn_shape().slot_bytes());
    EXPECT_EQ(static_cast<std::size_t>(pool->bytes()), memory.held);
    EXPECT_EQ(pool->slots().capacity(), 5);
    EXPECT_OK(pool->check());
  }
  EXPECT_EQ(memory.held, 0u);
}

TEST_F(Pools, LayersTileTheMemory) {
  const auto pool = *PagedKvPool::create(*context, kv_shape(), 4);
  std::vector<std::pair<const std::byte*, std::int64_t>> parts;
  for (const auto* side : {&pool->view().k, &pool->view().v}) {
    ASSERT_EQ(side->size(), 3u);
    for (const TensorView& layer : *side) {
      parts.emplace_back(static_cast<const std::byte*>(layer.data), layer.num_elements() * 2);
    }
  }
  std::sort(parts.begin(), parts.end());
  for (std::size_t i = 1; i < parts.size(); ++i) {
    EXPECT_EQ(parts[i].first, parts[i - 1].first + parts[i - 1].second);
  }
  EXPECT_EQ(parts.back().first + parts.back().second - parts.front().first, pool->bytes());
}

TEST_F(Pools, ZeroAndCopyTouchAllLayersOfOneSlot) {
  const auto pool = *GdnStatePool::create(*context, gdn_shape(), 3);
  const auto slots = *pool->slots().allocate(3);
  const auto fill = [](const TensorView& layer, int salt) {
    auto* bytes = static_cast<unsigned char*>(layer.data);
    const auto slot = static_cast<std::size_t>(layer.stride(0)) * dtype_size(layer.dtype);
    for (std::size_t i = 0; i < 3 * slot; ++i) {
      bytes[i] = static_cast<unsigned char>(salt + static_cast<int>(i / slot) * 16);
    }
  };
  const auto first_of = [](const TensorView& layer, int slot) {
    const auto size = static_cast<std::size_t>(layer.stride(0)) * dtype_size(layer.dtype);
    return static_cast<int>(
        static_cast<unsigned char*>(layer.data)[static_cast<std::size_t>(slot) * size]);
  };
  int salt = 1;
  for (const auto* side : {&pool->view().recurrent, &pool->view().conv}) {
    for (const TensorView& layer : *side) fill(layer, salt++);
  }
  ASSERT_OK(pool->copy(slots[2], slots[0]));
  ASSERT_OK(pool->zero(slots[1]));
  ASSERT_OK(pool->copy(slots[2], slots[2]));
  salt = 1;
  for (const auto* side : {&pool->view().recurrent, &pool->view().conv}) {
    for (const TensorView& layer : *side) {
      EXPECT_EQ(first_of(layer, 0), salt + 32);
      EXPECT_EQ(first_of(layer, 1), 0);
      EXPECT_EQ(first_of(layer, 2), salt++ + 32);
    }
  }
  ASSERT_OK(pool->slots().release(slots[1]));
  EXPECT_ERROR(pool->zero(slots[1]), kFailedPrecondition, "state slot 1");
  EXPECT_ERROR(pool->copy(slots[0], slots[1]), kFailedPrecondition, "state slot 1");
}

TEST_F(Pools, BadShapesNameTheField) {
  const auto kv = [&](auto change, std::int32_t pages = 1) {
    PagedKvShape shape = kv_shape();
    change(shape);
    return PagedKvPool::create(*context, shape, pages).status();
  };
  EXPECT_ERROR(kv([](auto& s) { s.num_layers = 0; }), kInvalidArgument, "num_layers is 0");
  EXPECT_ERROR(kv([](auto& s) { s.page_size = 0; }), kInvalidArgument, "page_size is 0");
  EXPECT_ERROR(kv([](auto& s) { s.num_kv_heads = -1; }), kInvalidArgument, "num_kv_heads is -1");
  EXPECT_ERROR(kv([](auto& s) { s.head_dim = 0; }), kInvalidArgument, "head_dim");
  EXPECT_ERROR(kv([](auto& s) { s.v_head_dim = 0; }), kInvalidArgument, "v_head_dim");
  EXPECT_ERROR(kv([](auto& s) { s.dtype = DType::kF64; }), kUnsupported, "f64");
  EXPECT_ERROR(kv([](auto&) {}, -1), kInvalidArgument, "num_pages is -1");
  const auto gdn = [&](auto change, std::int32_t slots = 1) {
    GdnStateShape shape = gdn_shape();
    change(shape);
    return GdnStatePool::create(*context, shape, slots).status();
  };
  EXPECT_ERROR(gdn([](auto& s) { s.num_layers = 0; }), kInvalidArgument, "num_layers is 0");
  EXPECT_ERROR(gdn([](auto& s) { s.conv_width = 5; }), kInvalidArgument, "conv_width is 5");
  EXPECT_ERROR(gdn([](auto& s) { s.state_dtype = DType::kF16; }), kUnsupported, "f16");
  EXPECT_ERROR(gdn([](auto& s) { s.conv_dtype = DType::kI32; }), kUnsupported, "i32");
  EXPECT_ERROR(gdn([](auto&) {}, -1), kInvalidArgument, "num_slots is -1");
  EXPECT_EQ(memory.held, 0u);
}

TEST_F(Pools, WithoutMemoryNothingIsHeld) {
  memory.fail = true;
  EXPECT_ERROR(PagedKvPool::create(*context, kv_shape(), 11).status(), kResourceExhausted,
               "PagedKvPool");
  EXPECT_ERROR(GdnStatePool::create(*context, gdn_shape(), 5).status(), kResourceExhausted,
               "GdnStatePool");
  EXPECT_EQ(memory.held, 0u);
}

TEST_F(Pools, EmptyPoolsAreLegal) {
  EXPECT_EQ((*PagedKvPool::create(*context, kv_shape(), 0))->bytes(), 0);
  EXPECT_EQ((*GdnStatePool::create(*context, gdn_shape(), 0))->bytes(), 0);
  EXPECT_EQ(memory.held, 0u);
}

TEST_F(Pools, TheBudgetIsWhatThePoolsAllocate) {
  const std::int64_t page = kv_shape().page_bytes();
  const std::int64_t slot = gdn_shape().slot_bytes();
  for (const std::int64_t extra : {std::int64_t{0}, page - 1, 9 * page + 5}) {
    const std::int64_t bytes = 3 * slot + page + extra;
    const auto budget = fit_cache_budget(kv_shape(), gdn_shape(), 3, 1000, bytes);
    ASSERT_TRUE(budget.ok());
    EXPECT_EQ(budget->num_pages, 1 + extra / page);
    EXPECT_LE(budget->bytes, bytes);
    EXPECT_GT(budget->bytes + page, bytes);
    const auto kv = *PagedKvPool::create(*context, kv_shape(), budget->num_pages);
    const auto gdn = *GdnStatePool::create(*context, gdn_shape(), budget->num_slots);
    EXPECT_EQ(static_cast<std::size_t>(budget->bytes), memory.held);
  }
  EXPECT_EQ(fit_cache_budget(kv_shape(), gdn_shape(), 0, 6, 1 << 30)->num_pages, 6);
  EXPECT_ERROR(fit_cache_budget(kv_shape(), gdn_shape(), 3, 9, 3 * slot + page - 1).status(),
               kResourceExhausted, "one page");
  EXPECT_ERROR(fit_cache_budget(kv_shape(), gdn_shape(), -1, 9, 1).status(), kInvalidArgument,
               "num_slots is -1");
  EXPECT_ERROR(fit_cache_budget(kv_shape(), gdn_shape(), 1, 9, -1).status(), kInvalidArgument,
               "bytes is -1");
  EXPECT_ERROR(fit_cache_budget(kv_shape(), gdn_shape(), 1, 0, 1).status(), kInvalidArgument,
               "max_pages is 0");
}

TEST(PoolSizes, PastTheRangeAreRefusedNotWrapped) {
  const auto context = make_context();
  PagedKvShape kv{65536, 1 << 20, 1 << 16, 512, 512, DType::kF32};
  EXPECT_ERROR(PagedKvPool::create(*context, kv, 4).status(), kResourceExhausted, "2^63");
  GdnStateShape gdn;
  gdn.num_layers = 1 << 20;
  gdn.num_v_heads = gdn.head_v_dim = gdn.head_k_dim = 1 << 20;
  gdn.conv_channels = 8;
  gdn.conv_width = 4;
  EXPECT_ERROR(GdnStatePool::create(*context, gdn, 4).status(), kResourceExhausted, "2^63");
  EXPECT_ERROR(fit_cache_budget(kv, gdn, 4, 100, std::int64_t{1} << 62).status(),
               kResourceExhausted, "9223372036854775807");
}

}  // namespace
}  // namespace hybridattn::testing
