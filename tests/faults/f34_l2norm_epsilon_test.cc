// F34: the epsilon of the q and k norm, on vectors small enough to show where it stands.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

void scale_head_vectors(GdnCase& c, double factor) {
  for (Operand* x : {&c.q, &c.k}) {
    std::vector<double> values = x->of(Source::kExact).values();
    for (double& value : values) value *= factor;
    *x = Operand(c.d.dtype, {c.d.tokens, c.d.hk, c.d.k}, Layout::kDense, values);
  }
}

TEST(F34L2NormEpsilon, PrefillAndStepsAgreeWithTheFormula) {
  for (const auto& context : test_contexts()) {
    for (const double factor : {1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0}) {
      GdnCase::Dims dims;
      dims.tokens = 6;
      GdnCase prefill(dims);
      scale_head_vectors(prefill, factor);
      GdnCase steps = prefill;
      prefill.rows.add(0, 6, 0, 3);
      ASSERT_OK(gdn_prefill(*context, prefill.args(Source::kKernel)));
      prefill.run_oracle();
      prefill.expect_as_oracle(1e-6, 1e-5);
      for (std::int32_t t = 0; t < 6; ++t) {
        steps.rows = {};
        steps.rows.add(t, 1, 0, 3 + t);
        ASSERT_OK(gdn_step(*context, steps.args(Source::kKernel)));
      }
      EXPECT_TRUE(near(steps.out.kernel().values(), prefill.out.kernel().values(), {2e-6, 2e-5}));
      EXPECT_TRUE(
          near(steps.state.kernel().values(), prefill.state.kernel().values(), {2e-6, 2e-5}));
    }
  }
}

TEST(F34L2NormEpsilon, TheOpAndTheFusedFormAreOne) {
  for (const auto& context : test_contexts()) {
    GdnCase::Dims dims;
    dims.tokens = 5;
    GdnCase fused(dims);
    scale_head_vectors(fused, 1e-3);
    GdnCase apart = fused;
    fused.rows.add(0, 5, 0, 3);
    apart.rows = fused.rows;
    ASSERT_OK(gdn_prefill(*context, fused.args(Source::kKernel)));
    for (Operand* x : {&apart.q, &apart.k}) {
      ASSERT_OK(l2norm(*context, {x->kernel().view(), x->kernel().view()}));
    }
    GdnArgs args = apart.args(Source::kKernel);
    args.qk_l2norm = false;
    ASSERT_OK(gdn_prefill(*context, args));
    EXPECT_TRUE(near(apart.out.kernel().values(), fused.out.kernel().values(), {1e-6, 1e-5}));
  }
}

}  // namespace
}  // namespace hybridattn::testing
