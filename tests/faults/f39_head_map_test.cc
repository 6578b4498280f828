// F39: value head h reads key head h / (HV / HK), and query head h key head h / (HQ / HK).
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F39HeadMap, ValueHeadsAreGrouped) {
  for (const auto& context : test_contexts()) {
    for (const std::int64_t group : {1, 2, 3, 4}) {
      for (const std::int32_t tokens : {1, 66}) {
        GdnCase::Dims dims;
        dims.tokens = tokens;
        dims.hk = 3;
        dims.hv = 3 * group;
        GdnCase c(dims);
        c.rows.add(0, tokens, 0, 5);
        const GdnArgs args = c.args(Source::kKernel);
        ASSERT_OK(tokens == 1 ? gdn_step(*context, args) : gdn_prefill(*context, args));
        c.run_oracle();
        c.expect_as_oracle(1e-6, 1e-5);
      }
    }
  }
}

/// q of key head j is (j + 1) times k, so an output over its value says which key head was read. No
/// reference has a part in it.
void expect_value_heads_grouped(Context& context, std::int64_t hk, std::int64_t group,
                                std::int32_t tokens) {
  GdnCase::Dims dims;
  dims.tokens = tokens;
  dims.hk = hk;
  dims.hv = hk * group;
  GdnCase c(dims);
  const auto zero = [](Buffer& b) {
    b.fill(std::vector<double>(static_cast<std::size_t>(b.num_elements()), 0.0));
  };
  zero(c.q.kernel());
  zero(c.k.kernel());
  zero(c.decay.kernel());
  for (std::int64_t h = 0; h < hk; ++h) {
    c.q.kernel().set({0, h, 5}, static_cast<double>(h + 1));
    c.k.kernel().set({0, h, 5}, 1.0);
  }
  for (std::int64_t h = 0; h < dims.hv; ++h) c.beta.kernel().set({0, h}, 1.0);
  c.scale = 1.0f;
  c.rows.add(0, tokens, 0, 0);
  GdnArgs args = c.args(Source::kKernel);
  args.qk_l2norm = false;
  ASSERT_OK(tokens == 1 ? gdn_step(context, args) : gdn_prefill(context, args));
  for (std::int64_t h = 0; h < dims.hv; ++h) {
    const double ratio = c.out.kernel().get({0, h, 3}) / c.v.kernel().get({0, h, 3});
    EXPECT_NEAR(ratio, static_cast<double>(h / group + 1), 1e-5);
  }
}

TEST(F39HeadMap, AnOutputSaysWhichKeyHeadWasRead) {
  for (const auto& context : test_contexts()) {
    for (const std::int32_t tokens : {1, 2}) {
      expect_value_heads_grouped(*context, 3, 2, tokens);
      expect_value_heads_grouped(*context, 2, 3, tokens);
    }
  }
}

TEST(F39HeadMap, HeadsThatDoNotDivideAreRefused) {
  const auto context = make_test_context();
  GdnCase::Dims dims;
  dims.hk = 2;
  dims.hv = 3;
  GdnCase c(dims);
  c.rows.add(0, 1, 0, 1);
  EXPECT_ERROR(gdn_step(*context, c.args(Source::kKernel)), kInvalidArgument, "HV = 3", "HK = 2");
  EXPECT_ERROR(gdn_prefill(*context, c.args(Source::kKernel)), kInvalidArgument, "HV = 3");
}

/// Every key head's values are its own number, so an output says whose they were.
void expect_grouped(Context& context, std::int64_t hq, std::int64_t hk) {
  Random random(8);
  Buffer q(DType::kF32, {3, hq, 16});
  Buffer k(DType::kF32, {3, hk, 16});
  Buffer v(DType::kF32, {3, hk, 8});
  q.fill(random.values(3 * hq * 16, -1, 1));
  k.fill(random.values(3 * hk * 16, -1, 1));
  for (std::int64_t t = 0; t < 3; ++t) {
    for (std::int64_t h = 0; h < hk; ++h) {
      for (std::int64_t i = 0; i < 8; ++i) v.set({t, h, i}, static_cast<double>(h + 1));
    }
  }
  Buffer out(DType::kF32, {3, hq, 8});
  KvRows rows;
  rows.add(0, 3, 3, {});
  const AttentionOptions options{0.25f, true, 0.0f, -1};
  ASSERT_OK(attention(
      context, {rows.view(false), q.view(), k.view(), v.view(), out.view(), {}, {}, options}));
  for (std::int64_t t = 0; t < 3; ++t) {
    for (std::int64_t h = 0; h < hq; ++h) {
      EXPECT_NEAR(out.get({t, h, 3}), static_cast<double>(h / (hq / hk) + 1), 1e-5);
    }
  }
}

TEST(F39HeadMap, QueryHeadsAreGrouped) {
  for (const auto& context : test_contexts()) {
    expect_grouped(*context, 48, 2);
    expect_grouped(*context, 40, 2);
    expect_grouped(*context, 6, 6);
    expect_grouped(*context, 7, 1);
  }
  const auto context = make_test_context();
  Buffer q(DType::kF32, {1, 5, 16});
  Buffer k(DType::kF32, {1, 2, 16});
  Buffer out(DType::kF32, {1, 5, 16});
  KvRows rows;
  rows.add(0, 1, 1, {});
  EXPECT_ERROR(attention(*context, {rows.view(false),
                                    q.view(),
                                    k.view(),
                                    k.view(),
                                    out.view(),
                                    {},
                                    {},
                                    {1.0f, true, 0.0f, -1}}),
               kInvalidArgument, "HQ = 5", "HK = 2");
}

}  // namespace
}  // namespace hybridattn::testing
