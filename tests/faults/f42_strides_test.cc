// F42: strides are honoured or refused. The conformance table runs every op on slices and
// transposed tensors; here are the strides that an op cannot serve, and one state wider than its
// heads.
#include "tests/faults/gdn_case.h"

namespace hybridattn::testing {
namespace {

TEST(F42Strides, AStrideInTheLastDimensionIsRefused) {
  const auto context = make_context();
  Buffer wide(DType::kF32, {4, 2, 64});
  const TensorView good = wide.view().at(0, {4, 2, 16}, {128, 64, 1});
  const TensorView bad = wide.view().at(0, {4, 2, 16}, {128, 64, 2});
  Buffer weight(DType::kF32, {16});
  const auto refused = [](const Status& status) {
    EXPECT_ERROR(status, kUnsupported, "stride 2", "last dimension", "must be 1");
  };
  refused(l2norm(*context, {bad, good}));
  refused(l2norm(*context, {good, bad}));
  refused(rms_norm(*context, {bad, weight.view(), good}));
  refused(gated_rms_norm(*context, {good, bad, weight.view(), good}));
  refused(sigmoid_gate(*context, {good, good, bad}));
  refused(rotary(
      *context, {bad, wide.view().at(0, {4, 8}, {8, 1}), wide.view().at(0, {4, 8}, {8, 1}), good}));
  QkNormRopeStoreArgs fused;
  fused.q = good;
  fused.q_out = bad;
  refused(qk_norm_rope_store(*context, fused));
  refused(
      linear(*context, {wide.view().at(0, {4, 16}, {64, 2}), wide.view().at(0, {2, 16}, {16, 1}),
                        wide.view().at(0, {4, 2}, {2, 1})}));
}

TEST(F42Strides, AnOutputThatOverlapsItselfIsRefused) {
  const auto context = make_context();
  Buffer x(DType::kF32, {4, 2, 16});
  const TensorView overlap = x.view().at(0, {4, 2, 16}, {0, 16, 1});
  EXPECT_ERROR(l2norm(*context, {x.view(), overlap}), kInvalidArgument, "stride 0");
  x.fill(std::vector<double>(128, 1.0));
  Buffer out(DType::kF32, {4, 2, 16});
  EXPECT_OK(l2norm(*context, {overlap, out.view()}));
  EXPECT_NEAR(out.get({3, 1, 5}), 0.25, 1e-6);
}

TEST(F42Strides, EveryTensorOfTheDeltaRuleAsASlice) {
  for (const auto& context : test_contexts()) {
    for (const std::int32_t tokens : {1, 70}) {
      GdnCase::Dims dims;
      dims.tokens = tokens;
      dims.slots = 3;
      GdnCase dense(dims);
      dense.rows.add(0, tokens, 1, 5);
      for (const Layout layout : {Layout::kSliced, Layout::kTransposed}) {
        GdnCase strided(dims);
        strided.rows = dense.rows;
        for (Operand* x : {&strided.q, &strided.k, &strided.v, &strided.decay, &strided.beta,
                           &strided.state, &strided.out}) {
          const Buffer old = x->kernel();
          const Layout own = old.shape().size() < 3 ? Layout::kSliced : layout;
          *x = Operand(old.dtype(), old.shape(), own, old.values());
        }
        const GdnArgs args = strided.args(Source::kKernel);
        ASSERT_OK(tokens == 1 ? gdn_step(*context, args) : gdn_prefill(*context, args));
        GdnCase fresh = dense;
        const GdnArgs plain = fresh.args(Source::kKernel);
        ASSERT_OK(tokens == 1 ? gdn_step(*context, plain) : gdn_prefill(*context, plain));
        EXPECT_EQ(strided.out.kernel().values(), fresh.out.kernel().values());
        EXPECT_EQ(strided.state.kernel().values(), fresh.state.kernel().values());
        EXPECT_TRUE(strided.state.kernel().gaps_intact());
        EXPECT_TRUE(strided.out.kernel().gaps_intact());
      }
    }
  }
}

TEST(F42Strides, OffsetsNeedMoreThanThirtyTwoBits) {
  // Views may lie anywhere: two slots 2^33 elements apart, of which only the first is named. The
  // other's address is never formed.
  const auto context = make_context();
  GdnCase c({});
  c.rows.add(0, 1, 0, 1);
  GdnArgs args = c.args(Source::kKernel);
  args.state.shape[0] = 2;
  args.state.strides[0] = std::int64_t{1} << 33;
  ASSERT_OK(gdn_step(*context, args));
  c.run_oracle();
  c.expect_as_oracle(1e-6, 1e-5);
}

}  // namespace
}  // namespace hybridattn::testing
