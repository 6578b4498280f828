// F36: the state is float32 unless the pool says otherwise, and every dtype is checked at each
// call.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

/// 8,192 steps with the same 128 tokens over and over, against the recurrence in double.
void run_long(Context& context, DType dtype, double l2) {
  GdnCase::Dims dims;
  dims.tokens = 128;
  dims.hk = 1;
  dims.hv = 2;
  dims.v = 16;
  dims.dtype = dtype;
  GdnCase c(dims);
  c.set_token_gates(std::vector<double>(128, -0.001));
  for (std::int32_t n = 0; n < 8192; ++n) {
    c.rows = {};
    c.rows.add(n % 128, 1, 0, n + 1);
    ASSERT_OK(gdn_step(context, c.args(Source::kKernel)));
  }
  for (int round = 0; round < 64; ++round) {
    c.rows = {};
    c.rows.add(0, 128, 0, 1 + round * 128);
    c.run_oracle();
  }
  EXPECT_TRUE(near(c.state.kernel().values(), c.state.of(Source::kRounded).values(), {l2, l2 * 8}));
}

TEST(F36StateDtype, EightThousandStepsDoNotDrift) {
  // The inputs are bf16 and the state float32: nothing is rounded to bf16 on the way.
  for (const auto& context : test_contexts()) {
    run_long(*context, DType::kF32, 2e-6);
    run_long(*context, DType::kBF16, 2e-6);
  }
}

TEST(F36StateDtype, WrongTypesAreRefusedByName) {
  const auto context = make_test_context();
  const auto run = [&](auto change) {
    GdnCase c({});
    c.rows.add(0, 1, 0, 1);
    GdnArgs args = c.args(Source::kKernel);
    change(args);
    const Status step = gdn_step(*context, args);
    const Status prefill = gdn_prefill(*context, args);
    EXPECT_EQ(step.code(), prefill.code());
    EXPECT_TRUE(c.out.kernel().is_poison({}));
    return step;
  };
  for (const DType dtype : {DType::kF16, DType::kF64, DType::kI32, DType::kI64}) {
    const char* name = dtype_name(dtype).data();
    EXPECT_ERROR(run([&](GdnArgs& a) { a.state.dtype = dtype; }), kUnsupported, "state", name);
  }
  for (const DType dtype : {DType::kF64, DType::kI32, DType::kI64}) {
    const char* name = dtype_name(dtype).data();
    EXPECT_ERROR(run([&](GdnArgs& a) { a.q.dtype = dtype; }), kUnsupported, "q has", name);
    EXPECT_ERROR(run([&](GdnArgs& a) { a.k.dtype = dtype; }), kUnsupported, "k has", name);
    EXPECT_ERROR(run([&](GdnArgs& a) { a.v.dtype = dtype; }), kUnsupported, "v has", name);
    EXPECT_ERROR(run([&](GdnArgs& a) { a.out.dtype = dtype; }), kUnsupported, "out has", name);
  }
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF64}) {
    EXPECT_ERROR(run([&](GdnArgs& a) { a.log_decay.dtype = dtype; }), kUnsupported, "log_decay");
    EXPECT_ERROR(run([&](GdnArgs& a) { a.beta.dtype = dtype; }), kUnsupported, "beta");
  }
}

}  // namespace
}  // namespace hybridattn::testing
