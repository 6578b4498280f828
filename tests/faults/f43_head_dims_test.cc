// F43: every head dim is computed right or refused.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

Status run(Context& context, std::int64_t k, std::int64_t v, std::int32_t tokens, bool compare) {
  GdnCase::Dims dims;
  dims.tokens = tokens;
  dims.hk = 1;
  dims.hv = 2;
  dims.k = k;
  dims.v = v;
  GdnCase c(dims);
  c.rows.add(0, tokens, 0, 5);
  const Canary states(c.state.kernel());
  const GdnArgs args = c.args(Source::kKernel);
  const Status status = tokens == 1 ? gdn_step(context, args) : gdn_prefill(context, args);
  if (compare) {
    c.run_oracle();
    c.expect_as_oracle(1e-6, 1e-5);
  } else {
    EXPECT_TRUE(states.intact());
    EXPECT_TRUE(c.out.kernel().is_poison({}));
  }
  return status;
}

TEST(F43HeadDims, TheSupportedOnesAreRight) {
  const std::vector<std::int64_t> dims{16, 32, 64, 80, 96, 128, 192, 256};
  for (const auto& context : test_contexts()) {
    for (std::size_t i = 0; i < dims.size(); ++i) {
      for (const std::int64_t v : {dims[i], dims[(i + 3) % dims.size()]}) {
        ASSERT_OK(run(*context, dims[i], v, 1, true));
        ASSERT_OK(run(*context, dims[i], v, 66, true));
      }
    }
  }
}

TEST(F43HeadDims, AllOthersAreRefused) {
  const auto context = make_test_context();
  for (const std::int64_t dim : {1, 8, 24, 257, 272}) {
    const std::string named = "= " + std::to_string(dim);
    for (const std::int32_t tokens : {1, 66}) {
      EXPECT_ERROR(run(*context, dim, 32, tokens, false), kUnsupported, "K", named);
      EXPECT_ERROR(run(*context, 32, dim, tokens, false), kUnsupported, "V", named);
    }
  }
}

TEST(F43HeadDims, AttentionToo) {
  const auto context = make_test_context();
  for (const std::int64_t dim : {513, 1024}) {
    Buffer q(DType::kF32, {1, 1, dim});
    Buffer small(DType::kF32, {1, 1, 16});
    KvRows rows;
    rows.add(0, 1, 1, {});
    const AttentionOptions options{1.0f, true, 0.0f, -1};
    EXPECT_ERROR(
        attention(
            *context,
            {rows.view(false), q.view(), q.view(), small.view(), small.view(), {}, {}, options}),
        kUnsupported, "D = ", "512");
    EXPECT_ERROR(
        attention(
            *context,
            {rows.view(false), small.view(), small.view(), q.view(), q.view(), {}, {}, options}),
        kUnsupported, "DV = ", "512");
  }
}

}  // namespace
}  // namespace hybridattn::testing
