// What attention and store_kv refuse of a cache's scales and of a gate, and that nothing is written
// then.
#include <cmath>
#include <functional>

#include "hybridattn/ops.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {
namespace {

class AttentionOptionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (Buffer* x : {&q, &k, &gate}) {
      x->fill(std::vector<double>(static_cast<std::size_t>(x->num_elements()), 1.0));
    }
    rows.add(0, 2, 3, {1});
  }
  Status run(const std::function<void(AttentionArgs&)>& change) {
    AttentionArgs args;
    args.rows = rows.view(true);
    args.q = q.view();
    args.k = args.v = k.view();
    args.out = out.view();
    args.options.scale = 0.25f;
    change(args);
    return attention(*context, args);
  }

  std::unique_ptr<Context> context = make_context(ContextOptions{});
  Buffer q{DType::kF32, {2, 4, 16}}, k{DType::kF32, {2, 4, 2, 16}}, out{DType::kF32, {2, 4, 16}};
  Buffer gate{DType::kF32, {2, 4, 16}}, other{DType::kF32, {2, 2, 16}}, few{DType::kF32, {4}};
  Buffer each{DType::kF32, {2}}, half{DType::kBF16, {2}};
  KvRows rows;
};

TEST_F(AttentionOptionsTest, ScalesOfHeads) {
  EXPECT_ERROR(run([&](auto& a) { a.options.k_scales = few.view(); }), kInvalidArgument,
               "attention: k_scales", "HK = 4", "k has 2");
  EXPECT_ERROR(run([&](auto& a) { a.options.v_scales = half.view(); }), kUnsupported, "v_scales",
               "bf16", "f32");
  EXPECT_ERROR(run([&](auto& a) {
                 a.options.k_scales = each.view();
                 a.options.k_scale = 0.5f;
               }),
               kInvalidArgument, "k_scale is 0.5", "must be 1 beside k_scales");
  EXPECT_TRUE(out.is_poison({}));
  StoreKvArgs store{q.view(), q.view(), nullptr, k.view(), k.view()};
  const std::int64_t places[] = {0, 1};
  store.k = store.v = other.view();
  store.token_slots = places;
  store.v_scales = few.view();
  EXPECT_ERROR(store_kv(*context, store), kInvalidArgument, "store_kv: v_scales", "HK = 4");
  store.v_scales = each.view();
  store.v_scale = 4;
  EXPECT_ERROR(store_kv(*context, store), kInvalidArgument, "v_scale is 4",
               "must be 1 beside v_scales");
}

TEST_F(AttentionOptionsTest, AGate) {
  EXPECT_ERROR(run([&](auto& a) { a.gate = other.view(); }), kInvalidArgument, "attention: gate",
               "HQ = 2", "q has 4");
  EXPECT_ERROR(run([&](auto& a) { a.gate = out.view(); }), kInvalidArgument, "out", "gate");
  EXPECT_TRUE(out.is_poison({}));
  EXPECT_OK(run([&](auto& a) { a.gate = gate.view(); }));
  EXPECT_NEAR(out.get({1, 3, 5}), 1 / (1 + std::exp(-1.0)), 1e-6);
}

}  // namespace
}  // namespace hybridattn::testing
