// Matrices rounded to eight bits at load: which, how far off, and what stays in memory.
#include <cmath>
#include <limits>
#include <vector>

#include "engine/model/int8_rows.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

float element(const ConstTensorView& view, std::int64_t row, std::int64_t column) {
  const std::int64_t at = row * view.stride(0) + column;
  switch (view.dtype) {
    case DType::kI8: return static_cast<const std::int8_t*>(view.data)[at];
    case DType::kBF16: return to_float(static_cast<const BF16*>(view.data)[at]);
    case DType::kF16: return to_float(static_cast<const F16*>(view.data)[at]);
    default: return static_cast<const float*>(view.data)[at];
  }
}

/// Compares the matrices of products of two models; counts those in eight bits.
class Comparison {
 public:
  void product(const WeightMatrix& stored, const WeightMatrix& loaded) {
    ASSERT_EQ(loaded.dim(0), stored.dim(0));
    ASSERT_EQ(loaded.dim(1), stored.dim(1));
    ASSERT_EQ(loaded.dtype == DType::kI8, stored.dim(0) >= 64) << stored.dim(0) << " rows";
    if (loaded.dtype != DType::kI8) return same(stored, loaded);
    ++rounded_;
    for (std::int64_t r = 0; r < stored.dim(0); ++r) {
      const float scale = element(loaded.scale.at(0, {stored.dim(0), 1}, {1, 1}), r, 0);
      for (std::int64_t c = 0; c < stored.dim(1); ++c) {
        ASSERT_NEAR(element(loaded, r, c) * scale, element(stored, r, c), 0.5001f * scale);
      }
    }
  }
  void same(const ConstTensorView& stored, const ConstTensorView& loaded) {
    ASSERT_EQ(loaded.dtype, stored.dtype);
    for (std::int64_t c = 0; c < stored.dim(1); ++c) {
      ASSERT_EQ(element(loaded, stored.dim(0) - 1, c), element(stored, stored.dim(0) - 1, c));
    }
  }
  void mlp(const MlpWeights& stored, const MlpWeights& loaded) {
    product(stored.gate, loaded.gate);
    product(stored.up, loaded.up);
    product(stored.down, loaded.down);
  }
  void layer(const LayerWeights& stored, const LayerWeights& loaded) {
    if (stored.full) {
      product(stored.full->q_proj, loaded.full->q_proj);
      product(stored.full->k_proj, loaded.full->k_proj);
      product(stored.full->v_proj, loaded.full->v_proj);
      product(stored.full->o_proj, loaded.full->o_proj);
    } else {
      product(stored.gdn->in_qkv, loaded.gdn->in_qkv);
      product(stored.gdn->in_z, loaded.gdn->in_z);
      product(stored.gdn->out_proj, loaded.gdn->out_proj);
      same(stored.gdn->in_a, loaded.gdn->in_a);
      same(stored.gdn->in_b, loaded.gdn->in_b);
    }
    if (stored.mlp) return mlp(*stored.mlp, *loaded.mlp);
    same(stored.moe->router, loaded.moe->router);
    for (std::size_t e = 0; e < stored.moe->experts.size(); ++e) {
      mlp(stored.moe->experts[e], loaded.moe->experts[e]);
    }
  }
  int rounded() const { return rounded_; }

 private:
  int rounded_ = 0;
};

class Int8Weights : public ::testing::TestWithParam<const char*> {};

TEST_P(Int8Weights, MatricesOfProductsAreRoundedAndNothingElse) {
  const auto path = checkpoint_path(GetParam());
  const ModelConfig config = or_throw(ModelConfig::load(path));
  const auto stored = or_throw(ModelWeights::load(path, config));
  const auto context = or_throw(Context::create({}));
  for (Executor* executor : {static_cast<Executor*>(nullptr), &context->executor()}) {
    const auto loaded =
        or_throw(ModelWeights::load(path, config, {}, WeightFormat::kInt8, executor));
    Comparison comparison;
    for (std::size_t i = 0; i < stored->layers.size(); ++i) {
      comparison.layer(stored->layers[i], loaded->layers[i]);
    }
    comparison.product(stored->lm_head, loaded->lm_head);
    comparison.same(stored->embedding, loaded->embedding);
    EXPECT_GT(comparison.rounded(), 0);
    EXPECT_EQ(loaded->num_parameters, stored->num_parameters);
    EXPECT_LT(loaded->mapped_bytes, stored->mapped_bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Int8Weights,
                         ::testing::Values("golden_a", "golden_c", "golden_moe_split",
                                           "golden_moe_stacked", "tiny-model"));

TEST(Int8Rows, TiesToEvenZerosAndWhatIsNoNumber) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> rows = {127, 2.5f, 3.5f, -0.5f, 0, 0, 0, 0, 1, inf, 2, 3, 1, 2, NAN, 3};
  std::vector<std::int8_t> out(rows.size());
  std::vector<float> scale(4);
  to_int8_rows(ConstTensorView(rows.data(), DType::kF32, {4, 4}), 4, 4, nullptr, out.data(),
               scale.data());
  EXPECT_EQ(std::vector<std::int8_t>(out.begin(), out.begin() + 8),
            (std::vector<std::int8_t>{127, 2, 4, 0, 0, 0, 0, 0}));
  EXPECT_EQ(scale[0], 1);
  EXPECT_EQ(scale[1], 0);
  EXPECT_TRUE(std::isnan(scale[2]));
  EXPECT_TRUE(std::isnan(scale[3]));
}

TEST(Int8Weights, AModelSaysAboutTheSame) {
  const auto path = checkpoint_path("tiny-model");
  const Ids ids = random_ids(200, 4000, 3);
  std::vector<double> nll;
  for (const WeightFormat format : {WeightFormat::kStored, WeightFormat::kInt8}) {
    EngineOptions options;
    options.weights = format;
    const auto engine = or_throw(Engine::load(path, options));
    or_throw(engine->allocate_caches({256, 0}));
    nll.push_back(or_throw(engine->score(ids, 128)).mean_nll);
  }
  EXPECT_NE(nll[0], nll[1]);
  EXPECT_NEAR(nll[0], nll[1], 0.02 * nll[0]);
}

}  // namespace
}  // namespace hybridattn::engine
