// F35: the scale is applied once, and has no default that could be applied besides it.
#include <cstdlib>
#include <limits>

#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F35ScaleAppliedTwice, TheRawOutputIsLinearInTheScale) {
  for (const auto& context : test_contexts()) {
    for (const std::int32_t tokens : {1, -1, 70}) {  // -1: one token without the norm of q and k
      GdnCase::Dims dims;
      dims.tokens = std::abs(tokens);
      std::vector<std::vector<double>> outputs;
      for (const float scale : {0.25f, 1.0f}) {
        GdnCase c(dims);
        c.scale = scale;
        c.l2norm = tokens > 0;
        c.rows.add(0, std::abs(tokens), 0, 2);
        const GdnArgs args = c.args(Source::kKernel);
        ASSERT_OK(tokens <= 1 ? gdn_step(*context, args) : gdn_prefill(*context, args));
        c.run_oracle();
        c.expect_as_oracle(1e-6, 1e-5);
        outputs.push_back(c.out.kernel().values());
      }
      for (double& value : outputs[0]) value *= 4;
      EXPECT_TRUE(near(outputs[0], outputs[1], {1e-6, 1e-5}));
    }
  }
}

TEST(F35ScaleAppliedTwice, AMissingScaleIsAnError) {
  const auto context = make_test_context();
  for (const float scale : {0.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    GdnCase c({});
    c.scale = scale;
    c.rows.add(0, 1, 0, 1);
    EXPECT_ERROR(gdn_step(*context, c.args(Source::kKernel)), kInvalidArgument, "scale is");
    EXPECT_ERROR(gdn_prefill(*context, c.args(Source::kKernel)), kInvalidArgument, "scale is");
    EXPECT_TRUE(c.out.kernel().is_poison({}));
  }
}

}  // namespace
}  // namespace hybridattn::testing
