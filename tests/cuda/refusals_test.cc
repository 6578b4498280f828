// What a context on a GPU does not serve yet is refused, not done wrong.
#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

class CudaRefusals : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    context_ = make_cuda_context();
  }
  Context& context() { return *context_; }

 private:
  std::unique_ptr<Context> context_;
};

TEST_F(CudaRefusals, AnOpWithoutAKernel) {
  Buffer x(DType::kF32, {2, 8}), weight(DType::kI8, {4, 8}), scale(DType::kF32, {4});
  Buffer out(DType::kF32, {2, 4});
  EXPECT_ERROR(linear_int8(context(), {x.view(), weight.view(), scale.view(), out.view()}),
               kUnsupported, "linear_int8", "cuda");
}

TEST_F(CudaRefusals, AFamilyThatCannotServeTheCall) {
  const auto forced = make_cuda_context("sm90");
  Buffer q(DType::kF32, {1, 1, 32}), decay(DType::kF32, {1, 1}), out(DType::kF32, {1, 1, 32});
  Buffer state(DType::kF32, {1, 1, 32, 32});
  const std::int32_t zero = 0, one = 1;
  EXPECT_ERROR(gdn_prefill(*forced, {{1, &zero, &one, &zero, &zero},
                                     q.view(),
                                     q.view(),
                                     q.view(),
                                     decay.view(),
                                     decay.view(),
                                     state.view(),
                                     out.view(),
                                     1.0f}),
               kUnsupported, "gdn_prefill", "sm90 is forced", "K = V = 128");
}

}  // namespace
}  // namespace hybridattn::testing
