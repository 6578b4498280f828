// Conformance of the fused norm, rotation and store, and its agreement with the three ops.
#include <algorithm>
#include <array>

#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceQkNormRopeStore : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceQkNormRopeStore, ::testing::ValuesIn(all_setups()),
                         setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceQkNormRopeStore, ::testing::ValuesIn(cuda_setups()),
                         setup_name);

constexpr std::int64_t kTokens = 6, kQHeads = 4, kKvHeads = 2, kPages = 5, kPageSize = 3;

struct CaseShape {
  std::int64_t dim = 64, v_dim = 48, half = 8;
  DType cache = DType::kBF16;
  Layout layout = Layout::kDense;
  bool q_norm = true, k_norm = true, rotated = true, stored = true, k_out = false;
  bool zero_centered = true;
  bool head_scales = false;
};

class Case {
 public:
  Case(Random& random, DType type, const CaseShape& s)
      : shape(s), q(input(random, type, {kTokens, kQHeads, s.dim})),
        k(input(random, type, {kTokens, kKvHeads, s.dim})),
        v(input(random, type, {kTokens, kKvHeads, s.v_dim})),
        q_norm(type, {s.dim}, Layout::kDense, random.values(s.dim, -0.5, 1)),
        k_norm(type, {s.dim}, Layout::kDense, random.values(s.dim, -0.5, 1)),
        cosine(angles(random)), sine(angles(random)),
        q_out(type, {kTokens, kQHeads, s.dim}, s.layout),
        k_out(type, {kTokens, kKvHeads, s.dim}, s.layout),
        k_cache(s.cache, {kPages, kPageSize, kKvHeads, s.dim}, s.layout),
        v_cache(s.cache, {kPages, kPageSize, kKvHeads, s.v_dim}, s.layout),
        k_scales(DType::kF32, {kKvHeads}, Layout::kDense, random.values(kKvHeads, 0.2, 3)),
        v_scales(DType::kF32, {kKvHeads}, Layout::kDense, random.values(kKvHeads, 0.2, 3)) {}

  QkNormRopeStoreArgs args(Source s) {
    QkNormRopeStoreArgs a;
    a.q = q(s);
    a.q_out = q_out(s);
    a.epsilon = 1e-5f;
    a.zero_centered = shape.zero_centered;
    if (shape.q_norm) a.q_norm = q_norm(s);
    if (shape.k_norm) a.k_norm = k_norm(s);
    if (shape.rotated) a.cos = cosine(s), a.sin = sine(s);
    if (shape.stored || shape.k_out) a.k = k(s);
    if (shape.k_out) a.k_out = k_out(s);
    if (shape.stored) {
      a.v = v(s);
      a.token_slots = places.data();
      a.k_cache = k_cache(s);
      a.v_cache = v_cache(s);
      if (shape.head_scales) {
        a.k_scales = k_scales(s);
        a.v_scales = v_scales(s);
      } else {
        a.k_scale = 0.75f;
        a.v_scale = 3.0f;
      }
    }
    return a;
  }

  /// Pages are poison where nothing was stored, so that they are compared by place.
  void expect(DType in) {
    expect_conforms(q_out, everything(kTokens), kQkNormRopeStoreBound, in);
    if (shape.k_out) expect_conforms(k_out, everything(kTokens), kQkNormRopeStoreBound, in);
    if (!shape.stored) return;
    const DType coarser = half_ulp(shape.cache) > half_ulp(in) ? shape.cache : in;
    expect_cache(k_cache, kQkNormRopeStoreBound, coarser);
    expect_cache(v_cache, kStoreKvBound, coarser);
  }

  CaseShape shape;
  std::vector<std::int64_t> places{7, 3, 0, 14, kPadIndex, 4};
  Operand q, k, v, q_norm, k_norm, cosine, sine, q_out, k_out, k_cache, v_cache;
  Operand k_scales, v_scales;

 private:
  Operand input(Random& random, DType type, const Shape& dims) const {
    return Operand(type, dims, shape.layout, random.values(dims[0] * dims[1] * dims[2], -3, 3));
  }
  Operand angles(Random& random) const {
    return Operand(DType::kF32, {kTokens, shape.half}, shape.layout,
                   random.values(kTokens * shape.half, -1, 1));
  }
  /// The named places, as an operand of their own: all others must still be poison.
  void expect_cache(Operand& cache, const OpBound& bound, DType in) const {
    const Buffer& got = cache.kernel();
    Operand named(got.dtype(), {kTokens - 1, kKvHeads, got.shape()[3]}, Layout::kDense);
    for (const Source s : {Source::kKernel, Source::kRounded, Source::kExact}) {
      std::vector<double> values;
      for (const std::int64_t place : places) {
        if (place == kPadIndex) continue;
        for (std::int64_t h = 0; h < kKvHeads; ++h) {
          for (std::int64_t d = 0; d < got.shape()[3]; ++d) {
            values.push_back(cache.of(s).get({place / kPageSize, place % kPageSize, h, d}));
          }
        }
      }
      named.of(s).fill(values);
    }
    expect_conforms(named, everything(kTokens - 1), bound, in);
    for (std::int64_t place = 0; place < kPages * kPageSize; ++place) {
      if (std::find(places.begin(), places.end(), place) != places.end()) continue;
      EXPECT_TRUE(got.is_poison({place / kPageSize, place % kPageSize})) << place;
    }
    EXPECT_TRUE(got.gaps_intact());
  }
};

TEST_P(ConformanceQkNormRopeStore, EveryLayoutAndWidth) {
  for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed,
                              Layout::kAlignedSliced, Layout::kAlignedTransposed}) {
    for (const auto& [dim, v_dim, half] :
         std::vector<std::array<std::int64_t, 3>>{{37, 19, 5},
                                                  {64, 48, 8},
                                                  {64, 48, 12},
                                                  {64, 64, 32},
                                                  {256, 256, 32},
                                                  {640, 16, 320}}) {
      CaseShape shape;
      shape.dim = dim;
      shape.v_dim = v_dim;
      shape.half = half;
      shape.layout = layout;
      Case c(random, dtype(), shape);
      run(qk_norm_rope_store, reference::qk_norm_rope_store, [&](Source s) { return c.args(s); });
      c.expect(dtype());
    }
  }
}

TEST_P(ConformanceQkNormRopeStore, EveryCacheType) {
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    for (const Layout layout : {Layout::kSliced, Layout::kAlignedSliced}) {
      CaseShape shape;
      shape.cache = cache;
      shape.layout = layout;
      shape.zero_centered = false;
      Case c(random, dtype(), shape);
      run(qk_norm_rope_store, reference::qk_norm_rope_store, [&](Source s) { return c.args(s); });
      c.expect(dtype());
    }
  }
}

TEST_P(ConformanceQkNormRopeStore, AScaleOfEachHead) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const std::int64_t dim : {37, 64}) {
      CaseShape shape;
      shape.cache = cache;
      shape.dim = shape.v_dim = dim;
      shape.head_scales = true;
      Case c(random, dtype(), shape);
      run(qk_norm_rope_store, reference::qk_norm_rope_store, [&](Source s) { return c.args(s); });
      c.expect(dtype());
    }
  }
}

TEST_P(ConformanceQkNormRopeStore, EveryPartIsOptional) {
  for (int parts = 0; parts < 32; ++parts) {
    for (const std::int64_t dim : {37, 64}) {
      CaseShape shape;
      shape.dim = dim;
      shape.v_dim = dim;
      shape.q_norm = (parts & 1) != 0;
      shape.rotated = (parts & 4) != 0;
      shape.stored = (parts & 8) != 0;
      shape.k_out = (parts & 16) != 0;
      shape.k_norm = (parts & 2) != 0 && (shape.stored || shape.k_out);
      Case c(random, dtype(), shape);
      run(qk_norm_rope_store, reference::qk_norm_rope_store, [&](Source s) { return c.args(s); });
      c.expect(dtype());
    }
  }
}

TEST_P(ConformanceQkNormRopeStore, InPlace) {
  for (const std::int64_t dim : {37, 64, 320}) {
    CaseShape shape;
    shape.dim = dim;
    shape.k_out = true;
    shape.layout = Layout::kAlignedSliced;
    Case apart(random, dtype(), shape);
    ASSERT_OK(qk_norm_rope_store(context(), apart.args(Source::kKernel)));
    QkNormRopeStoreArgs same = apart.args(Source::kKernel);
    Case fresh(random, dtype(), shape);
    same.q_out = apart.q.kernel().view();
    same.k_out = apart.k.kernel().view();
    same.k_cache = fresh.k_cache.kernel().view();
    same.v_cache = fresh.v_cache.kernel().view();
    ASSERT_OK(qk_norm_rope_store(context(), same));
    EXPECT_EQ(apart.q.kernel().memory(), apart.q_out.kernel().memory());
    EXPECT_EQ(apart.k.kernel().memory(), apart.k_out.kernel().memory());
    EXPECT_EQ(apart.k_cache.kernel().memory(), fresh.k_cache.kernel().memory());
    EXPECT_EQ(apart.v_cache.kernel().memory(), fresh.v_cache.kernel().memory());
  }
}

TEST_P(ConformanceQkNormRopeStore, AgreesWithTheThreeOps) {
  for (const DType cache : {dtype(), DType::kF8E4M3}) {
    CaseShape shape;
    shape.cache = cache;
    Case c(random, dtype(), shape);
    ASSERT_OK(qk_norm_rope_store(context(), c.args(Source::kKernel)));
    const QkNormRopeStoreArgs a = c.args(Source::kKernel);
    Buffer q(DType::kF32, {kTokens, kQHeads, shape.dim}), k(DType::kF32, {kTokens, 2, shape.dim});
    Buffer q_out(dtype(), q.shape()), k_out(DType::kF32, k.shape());
    Buffer k_cache(cache, c.k_cache.kernel().shape()), v_cache(cache, c.v_cache.kernel().shape());
    ASSERT_OK(rms_norm(context(), {a.q, a.q_norm, q.view(), a.epsilon, true}));
    ASSERT_OK(rms_norm(context(), {a.k, a.k_norm, k.view(), a.epsilon, true}));
    ASSERT_OK(rotary(context(), {q.view(), a.cos, a.sin, q_out.view()}));
    ASSERT_OK(rotary(context(), {k.view(), a.cos, a.sin, k_out.view()}));
    ASSERT_OK(store_kv(context(), {k_out.view(), a.v, a.token_slots, k_cache.view(), v_cache.view(),
                                   a.k_scale, a.v_scale}));
    // Float32 all the way in both: what the sums' order leaves, and a rounding that it may tip.
    const double tipped = 2.01 * half_ulp(dtype());
    EXPECT_TRUE(
        near(c.q_out.kernel().values(), q_out.values(), {1e-6 + tipped / 10, 1e-6 + tipped}));
    for (const std::int64_t place : c.places) {
      if (place == kPadIndex) continue;
      for (std::int64_t d = 0; d < shape.dim; ++d) {
        const Index at{place / kPageSize, place % kPageSize, 1, d};
        const double wanted = k_cache.get(at);
        EXPECT_NEAR(c.k_cache.kernel().get(at), wanted,
                    std::fabs(wanted) * (1e-6 + 2.01 * half_ulp(cache)) + 1e-6);
      }
    }
    EXPECT_EQ(c.v_cache.kernel().memory(), v_cache.memory());
  }
}

TEST_P(ConformanceQkNormRopeStore, ThreePositionsAToken) {
  CaseShape shape;
  shape.half = 32;
  Case c(random, dtype(), shape);
  const std::vector<std::int64_t> time{0, 7, 7, 7, 7, 900}, height{0, 7, 7, 8, 8, 900};
  const std::vector<std::int64_t> width{0, 7, 8, 7, 8, 900};
  run(rotary_table, reference::rotary_table, [&](Source s) {
    return RotaryTableArgs{time.data(), 1e7,           64,           c.cosine(s),
                           c.sine(s),   height.data(), width.data(), {11, 11, 10}};
  });
  run(qk_norm_rope_store, reference::qk_norm_rope_store, [&](Source s) { return c.args(s); });
  c.expect(dtype());
}

TEST_P(ConformanceQkNormRopeStore, PadTokensAreNotStoredWhateverTheyHold) {
  for (const std::int64_t dim : {37, 64}) {
    CaseShape shape;
    shape.dim = dim;
    Case c(random, dtype(), shape);
    for (Operand* x : {&c.q, &c.k, &c.v}) x->poison({4});  // the one at kPadIndex
    Canary keys(c.k_cache.kernel()), values(c.v_cache.kernel());
    for (const std::int64_t place : c.places) {
      if (place == kPadIndex) continue;
      keys.allow({place / kPageSize, place % kPageSize});
      values.allow({place / kPageSize, place % kPageSize});
    }
    run(qk_norm_rope_store, reference::qk_norm_rope_store, [&](Source s) { return c.args(s); });
    EXPECT_TRUE(keys.intact());
    EXPECT_TRUE(values.intact());
    expect_conforms(c.q_out, {0, 1, 2, 3, 5}, kQkNormRopeStoreBound, dtype());
  }
}

TEST_P(ConformanceQkNormRopeStore, PlacesOnTheDevice) {
  Case c(random, dtype(), {});
  Buffer device(DType::kI64, {kTokens});
  device.fill({kPadIndex, 2, 5, kPadIndex, 9, 12});
  QkNormRopeStoreArgs args = c.args(Source::kKernel);
  args.device_token_slots = static_cast<const std::int64_t*>(device.view().data);
  if (context().device() == DeviceType::kCuda) {
    Case same = c;
    ASSERT_OK(qk_norm_rope_store(context(), args));
    same.places = {kPadIndex, 2, 5, kPadIndex, 9, 12};
    ASSERT_OK(qk_norm_rope_store(context(), same.args(Source::kKernel)));
    EXPECT_EQ(c.k_cache.kernel().memory(), same.k_cache.kernel().memory());
    EXPECT_EQ(c.v_cache.kernel().memory(), same.v_cache.kernel().memory());
  } else {
    ASSERT_OK(qk_norm_rope_store(context(), args));
    EXPECT_FALSE(c.k_cache.kernel().is_poison({2, 1}));  // 7, of the host's array
  }
}

}  // namespace
}  // namespace hybridattn::testing
