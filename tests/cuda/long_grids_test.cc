// More rows, and more elements, than the threads of a grid: each takes several. Held against the
// CPU, whose kernels the conformance table holds.
#include <functional>

#include "hybridattn/ops.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

class CudaLongGrids : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    cuda = make_cuda_context();
  }
  Buffer filled(const Shape& shape) {
    Buffer buffer(DType::kF32, shape);
    buffer.fill(random.values(buffer.num_elements(), -2, 2));
    return buffer;
  }
  /// Calls the op on both devices and compares what they leave in `out`.
  void expect_as_cpu(Buffer& out, const std::function<Status(Context&)>& op) {
    ASSERT_OK(op(*cuda));
    const std::vector<double> got = out.values();
    out.poison({});
    ASSERT_OK(op(*cpu));
    EXPECT_TRUE(near(got, out.values(), {1e-6, 1e-5}));
  }

  Random random{11};
  std::unique_ptr<Context> cpu = make_context(ContextOptions{}), cuda;
};

TEST_F(CudaLongGrids, OfRows) {
  Buffer x = filled({90001, 1, 8}), weight = filled({8}), out(DType::kF32, x.shape());
  expect_as_cpu(out, [&](Context& c) {
    return rms_norm(c, {x.view(), weight.view(), out.view()});
  });
  Buffer q = filled({30001, 2, 8}), k = filled({30001, 1, 8}), table = filled({30001, 4});
  Buffer q_out(DType::kF32, q.shape()), cache(DType::kF32, {30001, 1, 1, 8}), v_cache = cache;
  std::vector<std::int64_t> places;
  for (std::int64_t t = 0; t < 30001; ++t) places.push_back(30000 - t);
  QkNormRopeStoreArgs args;
  args.q = q.view();
  args.k = args.v = k.view();
  args.q_norm = weight.view();
  args.cos = args.sin = table.view();
  args.q_out = q_out.view();
  args.token_slots = places.data();
  args.k_cache = cache.view();
  args.v_cache = v_cache.view();
  for (Buffer* each : {&q_out, &cache, &v_cache}) {
    expect_as_cpu(*each, [&](Context& c) { return qk_norm_rope_store(c, args); });
  }
}

TEST_F(CudaLongGrids, OfElements) {
  // Of 37 elements: rows that are taken one by one.
  Buffer x = filled({90001, 1, 37}), gate = filled({90001, 1, 37}), out(DType::kF32, x.shape());
  const auto flat = [](Buffer& buffer) { return buffer.view().at(0, {90001, 37}, {37, 1}); };
  expect_as_cpu(out, [&](Context& c) { return silu_mul(c, {flat(gate), flat(x), flat(out)}); });
  expect_as_cpu(out, [&](Context& c) {
    return sigmoid_gate(c, {x.view(), gate.view(), out.view()});
  });
  Buffer table = filled({90001, 9});
  expect_as_cpu(out, [&](Context& c) {
    return rotary(c, {x.view(), table.view(), table.view(), out.view()});
  });
  Buffer k_cache(DType::kF32, {90001, 1, 1, 37}), v_cache = k_cache;
  std::vector<std::int64_t> places;
  for (std::int64_t t = 0; t < 90001; ++t) places.push_back(90000 - t);
  expect_as_cpu(v_cache, [&](Context& c) {
    return store_kv(c, {x.view(), gate.view(), places.data(), k_cache.view(), v_cache.view()});
  });
}

}  // namespace
}  // namespace hybridattn::testing
