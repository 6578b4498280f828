// F38: both kernels read and write one layout. K != V and a random state, or a transpose would
// pass.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

enum class Form { kStep, kPrefill };

/// 6 tokens by `first`, 5 more by `second`, against the recurrence over all 11.
void hand_over(Context& context, Form first, Form second, std::int64_t k, std::int64_t v) {
  GdnCase::Dims dims;
  dims.tokens = 11;
  dims.k = k;
  dims.v = v;
  GdnCase c(dims);
  const auto run = [&](Form form, std::int32_t from, std::int32_t to) {
    const std::int32_t stride = form == Form::kStep ? 1 : to - from;
    for (std::int32_t t = from; t < to; t += stride) {
      c.rows = {};
      c.rows.add(t, stride, 0, 9 + t);
      const GdnArgs args = c.args(Source::kKernel);
      ASSERT_OK(form == Form::kStep ? gdn_step(context, args) : gdn_prefill(context, args));
    }
  };
  run(first, 0, 6);
  run(second, 6, 11);
  c.rows = {};
  c.rows.add(0, 11, 0, 9);
  c.run_oracle();
  c.expect_as_oracle(1e-6, 1e-5);
}

TEST(F38StateLayout, EveryPairOfKernelsHandsOver) {
  for (const auto& context : test_contexts()) {
    for (const Form first : {Form::kStep, Form::kPrefill}) {
      for (const Form second : {Form::kStep, Form::kPrefill}) {
        hand_over(*context, first, second, 64, 128);
        hand_over(*context, first, second, 128, 64);
        hand_over(*context, first, second, 16, 32);
      }
    }
  }
}

TEST(F38StateLayout, AStateOfTheOtherLayoutIsRefused) {
  const auto context = make_test_context();
  GdnCase c({});
  c.rows.add(0, 1, 0, 1);
  GdnArgs args = c.args(Source::kKernel);
  std::swap(args.state.shape[2], args.state.shape[3]);
  EXPECT_ERROR(gdn_step(*context, args), kInvalidArgument, "state has V = 16", "v has 32");
  EXPECT_ERROR(gdn_prefill(*context, args), kInvalidArgument, "state has V = 16");
}

}  // namespace
}  // namespace hybridattn::testing
