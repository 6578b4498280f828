// Uploads that go together: in their order with all else, of any size and place.
#include <cstring>
#include <numeric>
#include <vector>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"

namespace hybridattn::testing {
namespace {

class CudaUploadScope : public ::testing::Test {
 protected:
  static constexpr std::size_t kBytes = std::size_t{1} << 18;

  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    context_ = make_cuda_context();
    device_ = static_cast<std::byte*>(context().allocator().allocate(kBytes));
    ASSERT_NE(device_, nullptr);
    const std::vector<std::byte> zeros(kBytes);
    EXPECT_OK(context().copy(device_, zeros.data(), kBytes));
    wanted_ = zeros;
  }
  void TearDown() override {
    if (context_ == nullptr) return;
    EXPECT_OK(context().synchronize());
    context().allocator().deallocate(device_, kBytes);
  }

  Context& context() { return *context_; }
  std::byte* device() { return device_; }
  /// Bytes that no other upload of the test has, to `at`.
  void upload(std::size_t at, std::size_t bytes) {
    std::vector<std::byte> sent(bytes);
    for (std::byte& each : sent) each = static_cast<std::byte>(next_++ % 251 + 1);
    EXPECT_OK(context().upload(device_ + at, sent.data(), bytes));
    std::copy(sent.begin(), sent.end(), wanted_.begin() + static_cast<std::ptrdiff_t>(at));
    std::fill(sent.begin(), sent.end(), std::byte{0});  // it may be written at once
  }
  std::vector<std::byte> read() {
    std::vector<std::byte> got(kBytes);
    EXPECT_OK(context().copy(got.data(), device_, kBytes));
    EXPECT_OK(context().synchronize());
    return got;
  }
  void expect_all() { EXPECT_TRUE(read() == wanted_); }

 private:
  std::unique_ptr<Context> context_;
  std::byte* device_ = nullptr;
  std::vector<std::byte> wanted_;
  unsigned next_ = 0;
};

TEST_F(CudaUploadScope, SizesAndPlaces) {
  UploadScope scope(context());
  std::size_t at = 0;
  for (const std::size_t bytes : {1, 3, 15, 16, 17, 64, 234, 4'096, 4'099, 65'536, 65'537}) {
    upload(at + bytes % 7, bytes);
    at += bytes + 16;
  }
  EXPECT_OK(scope.send());
  expect_all();
}

TEST_F(CudaUploadScope, MoreThanOneKernelTakes) {
  UploadScope scope(context());
  for (std::size_t i = 0; i < 100; ++i) upload(i * 64, 40);
  EXPECT_OK(scope.send());
  expect_all();
}

TEST_F(CudaUploadScope, TheOutermostCounts) {
  UploadScope outer(context());
  upload(0, 100);
  {
    UploadScope inner(context());
    upload(128, 100);
    EXPECT_OK(inner.send());
  }
  upload(256, 100);
  { const UploadScope ended_without_a_word(context()); }
  EXPECT_OK(outer.send());
  EXPECT_OK(outer.send());  // nothing more
  expect_all();
}

/// What is ordered within a scope finds what was uploaded before it.
TEST_F(CudaUploadScope, OrderedCallsComeBehind) {
  UploadScope scope(context());
  upload(0, 256);
  EXPECT_OK(context().copy(device() + 1024, device(), 256));
  upload(0, 256);  // the copy keeps the first
  const std::vector<std::byte> got = read();
  EXPECT_FALSE(std::memcmp(got.data(), got.data() + 1024, 256) == 0);
  EXPECT_EQ(static_cast<int>(got[1024]), 1);
  EXPECT_EQ(static_cast<int>(got[0]), 256 % 251 + 1);
  const auto fence = Fence::create(context());
  ASSERT_TRUE(fence.ok());
  upload(2048, 64);
  EXPECT_OK((*fence)->set());
  EXPECT_OK((*fence)->wait());
}

/// A plan that is made within a scope is written twice: for no rows, then for a step's.
TEST_F(CudaUploadScope, TheLastToAPlaceStays) {
  UploadScope scope(context());
  for (int i = 0; i < 50; ++i) {
    upload(0, 4'096);
    upload(4'000, 8);
    upload(64, 64);
  }
  EXPECT_OK(scope.send());
  expect_all();
}

TEST_F(CudaUploadScope, ForgottenOnesAreSent) {
  {
    UploadScope scope(context());
    upload(512, 64);
  }
  expect_all();
}

}  // namespace
}  // namespace hybridattn::testing
