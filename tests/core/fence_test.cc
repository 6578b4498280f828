// Fences and uploads: what is behind them in the order of a context's calls.
#include "hybridattn/fence.h"

#include <cstring>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

TEST(Fence, WaitsForWhatWasOrderedBeforeIt) {
  const auto context = make_test_context();
  auto fence = Fence::create(*context);
  ASSERT_TRUE(fence.ok());
  EXPECT_OK((*fence)->wait());  // nothing was set
  Bytes device(1 << 20, 0);
  auto* const host = static_cast<std::byte*>(context->pinned_allocator().allocate(device.size()));
  ASSERT_NE(host, nullptr);
  for (int round = 1; round < 4; ++round) {
    std::memset(host, 0, device.size());
    const std::vector<std::byte> wanted(device.size(), std::byte(round));
    EXPECT_OK(context->upload(device.data(), wanted.data(), wanted.size()));
    EXPECT_OK(context->copy(host, device.data(), device.size()));
    EXPECT_OK((*fence)->set());
    EXPECT_OK((*fence)->wait());
    EXPECT_EQ(std::memcmp(host, wanted.data(), wanted.size()), 0) << round;
  }
  context->pinned_allocator().deallocate(host, device.size());
}

TEST(Upload, ItsSourceMayBeWrittenAtOnce) {
  const auto context = make_test_context();
  constexpr std::size_t kCount = 1000, kUploads = 3000;
  Bytes device(kUploads * kCount * sizeof(std::int32_t), 0);
  auto* const to = reinterpret_cast<std::int32_t*>(device.data());
  std::vector<std::int32_t> source(kCount);
  for (std::size_t i = 0; i < kUploads; ++i) {
    std::iota(source.begin(), source.end(), static_cast<std::int32_t>(i * kCount));
    ASSERT_OK(context->upload(to + i * kCount, source.data(), kCount * sizeof(std::int32_t)));
  }
  EXPECT_OK(context->upload(to, source.data(), 0));
  EXPECT_OK(context->synchronize());
  for (std::size_t i = 0; i < kUploads * kCount; ++i) {
    ASSERT_EQ(to[i], static_cast<std::int32_t>(i)) << i;
  }
}

}  // namespace
}  // namespace hybridattn::testing
