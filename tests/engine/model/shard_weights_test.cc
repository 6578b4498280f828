// Weights of ranks put together, part by part, are those of the whole model. F44.
#include <algorithm>

#include "tests/engine/serve/wide_checkpoint.h"

namespace hybridattn::engine {
namespace {

using Parts = std::vector<ShardPart>;

class F44ShardsOfWeights : public ::testing::Test {
 protected:
  void load(const std::filesystem::path& folder, std::int32_t ranks, WeightFormat format) {
    const ModelConfig config = or_throw(ModelConfig::load(folder));
    whole_ = or_throw(ModelWeights::load(folder, config, {}, format));
    shards_.clear();
    for (std::int32_t rank = 0; rank < ranks; ++rank) {
      shards_.push_back(
          or_throw(ModelWeights::load(folder, config, {}, format, nullptr, {rank, ranks})));
    }
  }

  /// `get(weights)` of the ranks, joined, has the bytes of the whole one's. No parts: all ranks
  /// have all of it.
  template <class Get>
  void expect_joined(const std::string& name, int dim, const Parts& parts, const Get& get) {
    const ConstTensorView whole = get(*whole_);
    if (parts.empty()) {
      for (const auto& shard : shards_) EXPECT_EQ(bytes_of(get(*shard)), bytes_of(whole)) << name;
      return;
    }
    std::vector<ConstTensorView> views;
    for (const auto& shard : shards_) views.push_back(get(*shard));
    std::string bytes = bytes_of(whole);
    const std::string wanted = bytes;
    std::fill(bytes.begin(), bytes.end(), '\x5a');
    TensorView joined(bytes.data(), whole.dtype, {});
    joined.rank = whole.rank;
    joined.shape = whole.shape;
    joined.strides = whole.strides;
    const Status done = join_shards(views, dim, parts, joined);
    ASSERT_TRUE(done.ok()) << name << ": " << done.message();
    EXPECT_EQ(bytes, wanted) << name;
  }
  /// The same of the scales of i8 rows.
  template <class Get>
  void expect_joined_scales(const std::string& name, const Parts& parts, const Get& get) {
    expect_joined(name + " scales", 0, parts, [&](const ModelWeights& w) { return get(w).scale; });
  }
  static std::string bytes_of(const ConstTensorView& view) {
    return {static_cast<const char*>(view.data),
            static_cast<std::size_t>(view.num_elements()) * dtype_size(view.dtype)};
  }

  void expect_gdn(std::size_t layer, std::int64_t hk, std::int64_t k, std::int64_t hv,
                  std::int64_t v) {
    const Parts channels = {{"q", hk, k}, {"k", hk, k}, {"v", hv, v}}, heads = {{"heads", hv, 1}};
    const auto of = [layer](auto member) {
      return [layer, member](const ModelWeights& w) { return (*w.layers[layer].gdn).*member; };
    };
    expect_joined("in_qkv", 0, channels, of(&GdnWeights::in_qkv));
    expect_joined("in_z", 0, {{"z", hv, v}}, of(&GdnWeights::in_z));
    expect_joined("in_b", 0, heads, of(&GdnWeights::in_b));
    expect_joined("in_a", 0, heads, of(&GdnWeights::in_a));
    expect_joined("conv", 0, channels, of(&GdnWeights::conv));
    expect_joined("a_log", 0, heads, of(&GdnWeights::a_log));
    expect_joined("dt_bias", 0, heads, of(&GdnWeights::dt_bias));
    expect_joined("norm", 0, {}, of(&GdnWeights::norm));
    expect_joined("out_proj", 1, {{"heads", hv, v}}, of(&GdnWeights::out_proj));
  }
  void expect_full(std::size_t layer, std::int64_t hq, std::int64_t hk, std::int64_t d) {
    const auto of = [layer](auto member) {
      return [layer, member](const ModelWeights& w) { return (*w.layers[layer].full).*member; };
    };
    const Parts keys = {{"keys", hk, d, true}};
    expect_joined("q_proj", 0, {{"queries and gates", hq, 2 * d}},
                  of(&FullAttentionWeights::q_proj));
    expect_joined("k_proj", 0, keys, of(&FullAttentionWeights::k_proj));
    expect_joined("v_proj", 0, keys, of(&FullAttentionWeights::v_proj));
    expect_joined("o_proj", 1, {{"queries", hq, d}}, of(&FullAttentionWeights::o_proj));
    expect_joined("q_norm", 0, {}, of(&FullAttentionWeights::q_norm));
  }

  std::unique_ptr<ModelWeights> whole_;
  std::vector<std::unique_ptr<ModelWeights>> shards_;
};

TEST_F(F44ShardsOfWeights, OfTwoAndFourRanks) {
  const WideCheckpoint wide(256, false);
  for (const WeightFormat format : {WeightFormat::kStored, WeightFormat::kInt8}) {
    for (const std::int32_t ranks : {2, 4}) {
      SCOPED_TRACE(concat(ranks, " ranks, ", weight_format_name(format)));
      load(wide.path(), ranks, format);
      expect_gdn(0, 4, 32, 8, 32);
      expect_full(3, 8, 2, 32);
      expect_joined("embedding", 0, {}, [](const ModelWeights& w) { return w.embedding; });
      expect_joined("lm_head", 0, {{"vocabulary", 256, 1}},
                    [](const ModelWeights& w) { return w.lm_head; });
      expect_joined("gate", 0, {{"width", 96, 1}},
                    [](const ModelWeights& w) { return w.layers[1].mlp->gate; });
      expect_joined("down", 1, {{"width", 96, 1}},
                    [](const ModelWeights& w) { return w.layers[1].mlp->down; });
    }
  }
  expect_joined_scales("in_qkv", {{"q", 4, 32}, {"k", 4, 32}, {"v", 8, 32}},
                       [](const ModelWeights& w) { return w.layers[0].gdn->in_qkv; });
  expect_joined_scales("down", {}, [](const ModelWeights& w) { return w.layers[0].mlp->down; });
}

// One key-value head, experts in one tensor, a tied head.
TEST_F(F44ShardsOfWeights, OfStackedExperts) {
  for (const WeightFormat format : {WeightFormat::kStored, WeightFormat::kInt8}) {
    load(checkpoint_path("golden_moe_stacked"), 2, format);
    expect_gdn(0, 2, 32, 8, 32);
    expect_joined("lm_head", 0, {{"vocabulary", 512, 1}},
                  [](const ModelWeights& w) { return w.lm_head; });
    for (const std::size_t expert : {0u, 5u}) {
      const auto of = [expert](auto member) {
        return [expert, member](const ModelWeights& w) {
          return (w.layers[1].moe->experts[expert]).*member;
        };
      };
      expect_joined("gate", 0, {{"width", 32, 1}}, of(&MlpWeights::gate));
      expect_joined("up", 0, {{"width", 32, 1}}, of(&MlpWeights::up));
      expect_joined("down", 1, {{"width", 32, 1}}, of(&MlpWeights::down));
    }
    expect_joined("shared down", 1, {{"width", 48, 1}},
                  [](const ModelWeights& w) { return w.layers[1].moe->shared->down; });
    expect_joined("router", 0, {}, [](const ModelWeights& w) { return w.layers[1].moe->router; });
  }
}

// Grouped projections, which are put in order as they are read.
TEST_F(F44ShardsOfWeights, OfGroupedProjections) {
  load(checkpoint_path("golden_c"), 2, WeightFormat::kStored);
  expect_gdn(0, 2, 32, 4, 64);
}

}  // namespace
}  // namespace hybridattn::engine
