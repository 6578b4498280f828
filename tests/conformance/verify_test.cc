// Conformance of the ops for drafted tokens.
#include <vector>

#include "tests/conformance/draft_rows.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceVerify : public ConformanceDrafts {
 protected:
  Operand operand(const Shape& shape, double low, double high) {
    return typed(dtype(), shape, low, high);
  }
  Operand typed(DType type, const Shape& shape, double low, double high) {
    std::int64_t count = 1;
    for (const std::int64_t d : shape) count *= d;
    return Operand(type, shape, Layout::kSliced, random.values(count, low, high));
  }
};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceVerify, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceVerify, ::testing::ValuesIn(cuda_setups()), setup_name);

class ConformanceVerifyAttention : public ConformanceVerify {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceVerifyAttention, ::testing::ValuesIn(all_setups()),
                         setup_name);

TEST_P(ConformanceVerify, GdnVerify) {
  Operand q = operand({kTokens, 2, 16}, -1, 1), k = operand({kTokens, 2, 16}, -1, 1);
  Operand v = operand({kTokens, 4, 32}, -1, 1);
  Operand decay = typed(DType::kF32, {kTokens, 4}, -1, 0),
          beta = typed(DType::kF32, {kTokens, 4}, 0, 1);
  Operand state = typed(DType::kF32, {kSlots, 4, 32, 16}, -0.5, 0.5);
  Operand kept_states(DType::kF32, {kKept, 4, 32, 16}, Layout::kSliced);
  Operand out(dtype(), {kTokens, 4, 32}, Layout::kSliced);
  for (Operand* x : {&q, &k, &v, &decay, &beta}) x->poison({0, 12, 13, 17});
  const Canary pool(state.kernel());
  run(gdn_verify, reference::gdn_verify, [&](Source s) {
    return GdnVerifyArgs{
        {rows.view(), q(s), k(s), v(s), decay(s), beta(s), state(s), out(s), 0.25f, true},
        verify(),
        kept_states(s)};
  });
  EXPECT_TRUE(pool.intact()) << "the pool of states is only read";
  expect_conforms(out, rows.tokens(true), kGdnStepBound, dtype());
  expect_conforms(kept_states, named(), kGdnStepBound, dtype());
  for (const std::int64_t slot : unnamed()) EXPECT_TRUE(kept_states.kernel().is_poison({slot}));
  for (const double zero : out.kernel().gather({12, 13})) EXPECT_EQ(zero, 0.0);
}

TEST_P(ConformanceVerify, CausalConvVerify) {
  for (const std::int64_t width : {2, 3, 4}) {
    Operand x = operand({kTokens, 70}, -2, 2), weight = operand({70, width}, -1, 1);
    Operand state = operand({kSlots, 70, width - 1}, -2, 2);
    Operand windows(dtype(), {kKept, 70, width - 1}, Layout::kSliced);
    Operand out(dtype(), {kTokens, 70}, Layout::kSliced);
    x.poison({0, 12, 13, 17});
    const Canary pool(state.kernel());
    run(causal_conv_verify, reference::causal_conv_verify, [&](Source s) {
      return CausalConvVerifyArgs{
          {rows.view(), x(s), weight(s), state(s), out(s)}, verify(), windows(s)};
    });
    EXPECT_TRUE(pool.intact());
    expect_conforms(out, rows.tokens(true), kCausalConvBound, dtype());
    expect_conforms(windows, named(), kCausalConvBound, dtype());
    EXPECT_TRUE(windows.kernel().is_poison({6}));
  }
}

TEST_P(ConformanceVerifyAttention, AttentionOverATree) {
  for (const auto& [before, window] : std::vector<std::pair<std::int32_t, std::int32_t>>{
           {0, -1}, {5, -1}, {61, -1}, {0, 1}, {0, 2}, {5, 3}, {61, 2}, {130, 64}, {130, 70}}) {
    const std::int32_t keys = before + 6;
    Operand q = operand({kTokens, 4, 24}, -1, 1);
    Operand k = operand({40, 4, 2, 24}, -1, 1), v = operand({40, 4, 2, 24}, -1, 1);
    Operand out(dtype(), {kTokens, 4, 24}, Layout::kSliced);
    Operand lse(DType::kF32, {kTokens, 4}, Layout::kDense);
    KvRows kv;
    std::vector<std::int32_t> pages;
    for (std::int32_t p = 0; p * 4 < keys; ++p) pages.push_back(39 - p);
    kv.add(6, 6, keys, pages);
    kv.add(1, 5, 5, {0, 1});
    run(attention, reference::attention, [&](Source s) {
      AttentionArgs args{kv.view(true), q(s), k(s),   v(s),
                         out(s),        {},   lse(s), {0.2f, true, 0.0f, window}};
      args.rows.parents = parents.data();
      return args;
    });
    expect_conforms(out, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, kAttentionBound, dtype());
    expect_conforms(lse, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, kAttentionBound, dtype());
  }
}

TEST_P(ConformanceVerifyAttention, ATreeDoesNotReadTheValuesBesideItsPath) {
  Operand q = operand({kTokens, 4, 24}, -1, 1);
  Buffer k(dtype(), {2, 4, 2, 24}), v(dtype(), {2, 4, 2, 24}), out(dtype(), {kTokens, 4, 24});
  for (Buffer* x : {&k, &v}) x->fill(random.values(x->num_elements(), -1, 1));
  for (const std::int64_t i : {1, 2, 3}) v.poison({i / 4, i % 4});  // tokens 1, 2, 3 of the tree
  KvRows kv;
  kv.add(6, 6, 6, {0, 1});
  AttentionArgs args{
      kv.view(true),         q(Source::kKernel), k.view(), v.view(), out.view(), {}, {},
      {0.2f, true, 0.0f, -1}};
  args.rows.parents = parents.data();
  ASSERT_OK(attention(context(), args));
  for (const std::int64_t token : {6, 10, 11}) {  // token 0, and 4 and 5, which follow the state
    for (const double value : out.gather({token})) ASSERT_FALSE(std::isnan(value)) << token;
  }
  args.options.causal = false;
  EXPECT_ERROR(attention(context(), args), kUnsupported, "row 0 is a tree and causal is false");
}

TEST(VerifyRowsTest, WrongOnesAreNamed) {
  const auto context = make_context();
  Buffer x(DType::kF32, {3, 16}), w(DType::kF32, {16, 4}), state(DType::kF32, {2, 16, 3});
  Buffer kept(DType::kF32, {3, 16, 3}), bf16(DType::kBF16, {3, 16, 3}), out(DType::kF32, {3, 16});
  Rows rows;
  rows.add(0, 3, 1, 4);
  const auto call = [&](std::int32_t first, const std::vector<std::int32_t>& parents,
                        Buffer& pool) {
    return causal_conv_verify(*context,
                              {{rows.view(), x.view(), w.view(), state.view(), out.view()},
                               {&first, parents.data()},
                               pool.view()});
  };
  EXPECT_ERROR(call(1, {kChain}, kept), kOutOfRange, "row 0 keeps 3 states from slot 1", "[0, 3)");
  EXPECT_ERROR(call(0, {-1, 1, 0}, kept), kOutOfRange, "token 1 follows token 1");
  EXPECT_ERROR(call(0, {-1, -3, 0}, kept), kOutOfRange, "token 1 follows token -3");
  EXPECT_ERROR(call(0, {kChain}, bf16), kInvalidArgument, "kept has dtype bf16", "f32");
  EXPECT_ERROR(call(0, {kChain}, state), kInvalidArgument, "kept is state");
  EXPECT_TRUE(out.is_poison({}));
}

}  // namespace
}  // namespace hybridattn::testing
