// What qk_norm_rope_store refuses, and that it has written nothing then.
#include <functional>

#include "hybridattn/ops.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

class QkNormRopeStoreTest : public ::testing::Test {
 protected:
  using Change = std::function<void(QkNormRopeStoreArgs&)>;

  void SetUp() override {
    for (Buffer* x : {&q, &k, &v, &weight, &table}) {
      x->fill(std::vector<double>(static_cast<std::size_t>(x->num_elements()), 1.0));
    }
  }
  /// A legal call, changed.
  Status run(const Change& change) {
    QkNormRopeStoreArgs args;
    args.q = q.view();
    args.k = k.view();
    args.v = v.view();
    args.q_norm = args.k_norm = weight.view();
    args.cos = args.sin = table.view();
    args.q_out = q_out.view();
    args.token_slots = slots;
    args.k_cache = k_cache.view();
    args.v_cache = v_cache.view();
    change(args);
    return qk_norm_rope_store(*context, args);
  }
  void expect_untouched() {
    for (const Buffer* out : {&q_out, &k_cache, &v_cache}) EXPECT_TRUE(out->is_poison({}));
  }

  std::unique_ptr<Context> context = make_context(ContextOptions{});
  Buffer q{DType::kF32, {2, 4, 16}}, k{DType::kF32, {2, 2, 16}}, v{DType::kF32, {2, 2, 8}};
  Buffer weight{DType::kF32, {16}}, table{DType::kF32, {2, 4}}, wide_table{DType::kF32, {2, 9}};
  Buffer q_out{DType::kF32, {2, 4, 16}}, scales{DType::kF32, {2}};
  Buffer k_cache{DType::kF8E4M3, {3, 4, 2, 16}}, v_cache{DType::kF8E4M3, {3, 4, 2, 8}};
  std::int64_t slots[2] = {11, kPadIndex};
};

TEST_F(QkNormRopeStoreTest, TensorsThatDoNotFitTogether) {
  Buffer other(DType::kF32, {2, 2, 17}), f8(DType::kF8E4M3, {2, 2, 16});
  EXPECT_ERROR(run([&](auto& a) { a.k = other.view(); }), kInvalidArgument,
               "qk_norm_rope_store: k ", "D = 17", "q has 16");
  EXPECT_ERROR(run([&](auto& a) { a.q_out = k.view(); }), kInvalidArgument, "q_out", "HQ = 2");
  EXPECT_ERROR(run([&](auto& a) { a.k_out = q.view(); }), kInvalidArgument, "k_out", "HK = 4");
  EXPECT_ERROR(run([&](auto& a) { a.v_cache = k_cache.view(); }), kInvalidArgument, "v_cache",
               "DV = 16", "v has 8");
  EXPECT_ERROR(run([&](auto& a) { a.k_norm = table.view(); }), kInvalidArgument, "k_norm",
               "rank 2");
  EXPECT_ERROR(run([&](auto& a) { a.cos = a.sin = wide_table.view(); }), kInvalidArgument,
               "R/2 = 9", "D = 16");
  EXPECT_ERROR(run([&](auto& a) { a.k_out = f8.view(); }), kUnsupported, "k_out", "f8_e4m3");
  expect_untouched();
}

TEST_F(QkNormRopeStoreTest, WhatMustComeTogether) {
  EXPECT_ERROR(run([](auto& a) { a.cos = {}; }), kInvalidArgument, "cos is missing",
               "sin is given");
  EXPECT_ERROR(run([](auto& a) { a.v_cache = {}; }), kInvalidArgument, "k_cache is given",
               "v_cache is missing");
  EXPECT_ERROR(run([](auto& a) { a.v = {}; }), kInvalidArgument, "v is missing");
  EXPECT_ERROR(run([](auto& a) { a.k = {}; }), kInvalidArgument, "k is missing");
  EXPECT_ERROR(run([](auto& a) { a.k_cache = a.v_cache = {}, a.v = {}; }), kInvalidArgument,
               "k must go to at least one");
  EXPECT_ERROR(run([](auto& a) { a.token_slots = nullptr; }), kInvalidArgument, "token_slots");
  expect_untouched();
}

TEST_F(QkNormRopeStoreTest, ScalarsAndPlaces) {
  EXPECT_ERROR(run([](auto& a) { a.epsilon = -1; }), kInvalidArgument, "epsilon is -1");
  EXPECT_ERROR(run([](auto& a) { a.k_scale = 0; }), kInvalidArgument, "k_scale is 0");
  EXPECT_ERROR(run([](auto& a) { a.v_scale = -2; }), kInvalidArgument, "v_scale is -2");
  EXPECT_ERROR(run([&](auto& a) { a.k_scales = weight.view(); }), kInvalidArgument, "k_scales",
               "HK = 16", "k has 2");
  EXPECT_ERROR(run([&](auto& a) { a.v_scales = scales.view(), a.v_scale = 2; }), kInvalidArgument,
               "v_scale is 2", "must be 1 beside v_scales");
  slots[1] = 12;
  EXPECT_ERROR(run([](auto&) {}), kOutOfRange, "token_slots[1] is 12", "[0, 12)");
  slots[1] = -2;
  EXPECT_ERROR(run([](auto&) {}), kOutOfRange, "token_slots[1] is -2");
  expect_untouched();
  slots[1] = 0;
  EXPECT_OK(run([](auto&) {}));
  for (const Buffer* out : {&q_out, &k_cache, &v_cache}) EXPECT_FALSE(out->is_poison({0}));
}

}  // namespace
}  // namespace hybridattn::testing
