// Which tensors a model of each family has, and under which names.
#include "engine/model/weights.h"

#include "engine/model/weight_loader.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// Runs of rows of a grouped projection, in the order in which the copy has them.
void append_rows(std::vector<std::int64_t>& order, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) order.push_back(first + i);
}

/// in_proj_qkvz of Qwen3-Next has, for each key head, its q, k, the v of its value heads and their
/// z. The copy has all q, all k, all v, all z.
std::vector<std::int64_t> qkvz_order(const ModelConfig& c) {
  const std::int64_t k = c.linear_key_head_dim;
  const std::int64_t heads = c.linear_num_key_heads;
  const std::int64_t v = c.linear_num_value_heads / heads * std::int64_t{c.linear_value_head_dim};
  const std::int64_t group = 2 * k + 2 * v;
  std::vector<std::int64_t> order;
  for (std::int64_t h = 0; h < heads; ++h) append_rows(order, h * group, k);
  for (std::int64_t h = 0; h < heads; ++h) append_rows(order, h * group + k, k);
  for (std::int64_t h = 0; h < heads; ++h) append_rows(order, h * group + 2 * k, v);
  for (std::int64_t h = 0; h < heads; ++h) append_rows(order, h * group + 2 * k + v, v);
  return order;
}

/// in_proj_ba: for each key head the b of its value heads, then their a.
std::vector<std::int64_t> ba_order(const ModelConfig& c) {
  const std::int64_t heads = c.linear_num_key_heads;
  const std::int64_t r = c.linear_num_value_heads / heads;
  std::vector<std::int64_t> order;
  for (std::int64_t h = 0; h < heads; ++h) append_rows(order, h * 2 * r, r);
  for (std::int64_t h = 0; h < heads; ++h) append_rows(order, h * 2 * r + r, r);
  return order;
}

/// Rows of a dense matrix, counted over all dimensions before the last.
WeightMatrix rows_of(const WeightMatrix& matrix, std::int64_t first, std::int64_t count) {
  const std::int64_t columns = matrix.dim(matrix.rank - 1);
  WeightMatrix out = matrix.at(first * columns, {count, columns}, {columns, 1});
  if (!matrix.scale.empty()) out.scale = matrix.scale.at(first, {count}, {1});
  return out;
}

class ModelLoader {
 public:
  /// `own` is the configuration of the shard that is loaded, `config` the whole model's.
  ModelLoader(const ModelConfig& config, const ModelConfig& own, WeightLoader& loader)
      : c_(config), own_(own), cuts_(config), loader_(loader) {}

  Status load(ModelWeights& weights, const ModelShard& shard);

 private:
  Result<FullAttentionWeights> full_attention(const std::string& p);
  Result<GdnWeights> gdn(const std::string& p);
  Status gdn_projections(const std::string& p, GdnWeights& w);
  Result<MlpWeights> mlp(const std::string& p, std::int64_t width);
  Result<MoeWeights> moe(const std::string& p);
  Status stacked_experts(const std::string& p, MoeWeights& w);

  const ModelConfig& c_;
  const ModelConfig& own_;
  WeightCuts cuts_;
  WeightLoader& loader_;
};

Status ModelLoader::load(ModelWeights& weights, const ModelShard& shard) {
  // Multimodal wrappers put the text model one level deeper.
  const std::string nested = "model.language_model.";
  const std::string prefix = loader_.has(nested + "embed_tokens.weight") ? nested : "model.";
  const std::string embedding = prefix + "embed_tokens.weight";
  HYBRIDATTN_ASSIGN(weights.embedding, loader_.stored(embedding, {c_.vocab_size, c_.hidden_size}));
  // Early: rounding has all of it in memory once.
  const WeightCut vocabulary = cuts_.vocabulary(shard.size);
  if (!loader_.has("lm_head.weight")) {
    HYBRIDATTN_ASSIGN(weights.lm_head,
                      loader_.product_form(embedding, weights.embedding, vocabulary));
  }
  for (std::int32_t i = 0; i < c_.num_layers(); ++i) {
    const std::string p = prefix + "layers." + std::to_string(i) + ".";
    LayerWeights w;
    HYBRIDATTN_ASSIGN(w.input_norm, loader_.floats(p + "input_layernorm.weight", {c_.hidden_size}));
    HYBRIDATTN_ASSIGN(w.post_attention_norm,
                      loader_.floats(p + "post_attention_layernorm.weight", {c_.hidden_size}));
    const auto index = static_cast<std::size_t>(i);
    if (c_.layers[index] == LayerKind::kFullAttention) {
      HYBRIDATTN_ASSIGN(w.full, full_attention(p + "self_attn."));
    } else {
      HYBRIDATTN_ASSIGN(w.gdn, gdn(p + "linear_attn."));
    }
    if (c_.moe_layers[index]) {
      HYBRIDATTN_ASSIGN(w.moe, moe(p + "mlp."));
    } else {
      HYBRIDATTN_ASSIGN(w.mlp, mlp(p + "mlp.", c_.intermediate_size));
    }
    weights.layers.push_back(std::move(w));
  }
  HYBRIDATTN_ASSIGN(weights.final_norm, loader_.floats(prefix + "norm.weight", {c_.hidden_size}));
  // What the file holds decides, since nested configs state the tie at two levels that may
  // disagree.
  weights.tied = !loader_.has("lm_head.weight");
  if (weights.tied && !c_.tie_word_embeddings) {
    return error(StatusCode::kNotFound,
                 "checkpoint: tensor lm_head.weight is missing and "
                 "config.json has ",
                 c_.tie_stated ? "" : "no ", "tie_word_embeddings",
                 c_.tie_stated ? " false" : " (the default is false)");
  }
  if (!weights.tied) {
    HYBRIDATTN_ASSIGN(weights.lm_head, loader_.matrix("lm_head.weight",
                                                      {c_.vocab_size, c_.hidden_size}, vocabulary));
  }
  return loader_.check_leftovers();
}

Result<FullAttentionWeights> ModelLoader::full_attention(const std::string& p) {
  const std::int64_t h = c_.hidden_size;
  const std::int64_t q = std::int64_t{c_.num_attention_heads} * c_.head_dim;
  const std::int64_t kv = std::int64_t{c_.num_key_value_heads} * c_.head_dim;
  FullAttentionWeights w;
  HYBRIDATTN_ASSIGN(w.q_proj, loader_.matrix(p + "q_proj.weight", {2 * q, h}, cuts_.queries()));
  HYBRIDATTN_ASSIGN(w.k_proj, loader_.matrix(p + "k_proj.weight", {kv, h}, cuts_.keys()));
  HYBRIDATTN_ASSIGN(w.v_proj, loader_.matrix(p + "v_proj.weight", {kv, h}, cuts_.keys()));
  HYBRIDATTN_ASSIGN(w.o_proj, loader_.matrix(p + "o_proj.weight", {h, q}, cuts_.attention_out()));
  HYBRIDATTN_ASSIGN(w.q_norm, loader_.floats(p + "q_norm.weight", {c_.head_dim}));
  HYBRIDATTN_ASSIGN(w.k_norm, loader_.floats(p + "k_norm.weight", {c_.head_dim}));
  return w;
}

Status ModelLoader::gdn_projections(const std::string& p, GdnWeights& w) {
  const std::int64_t h = c_.hidden_size;
  const std::int64_t hv = c_.linear_num_value_heads;
  const std::int64_t v = hv * c_.linear_value_head_dim;
  const std::int64_t conv = 2 * std::int64_t{c_.linear_num_key_heads} * c_.linear_key_head_dim + v;
  if (c_.family == ModelFamily::kQwen3Next) {
    HYBRIDATTN_ASSIGN(const WeightMatrix qkvz,
                      loader_.reordered(p + "in_proj_qkvz.weight", qkvz_order(c_), h, true,
                                        cuts_.gdn_channels_and_z()));
    HYBRIDATTN_ASSIGN(
        const WeightMatrix ba,
        loader_.reordered(p + "in_proj_ba.weight", ba_order(c_), h, false, cuts_.gdn_b_and_a()));
    const std::int64_t own_hv = own_.linear_num_value_heads;
    const std::int64_t own_v = own_hv * own_.linear_value_head_dim;
    const std::int64_t own_conv = qkvz.dim(0) - own_v;
    w.in_qkv = rows_of(qkvz, 0, own_conv);
    w.in_z = rows_of(qkvz, own_conv, own_v);
    w.in_b = rows_of(ba, 0, own_hv);
    w.in_a = rows_of(ba, own_hv, own_hv);
    return {};
  }
  HYBRIDATTN_ASSIGN(w.in_qkv,
                    loader_.matrix(p + "in_proj_qkv.weight", {conv, h}, cuts_.gdn_channels()));
  HYBRIDATTN_ASSIGN(w.in_z, loader_.matrix(p + "in_proj_z.weight", {v, h}, cuts_.gdn_z()));
  HYBRIDATTN_ASSIGN(w.in_b,
                    loader_.stored(p + "in_proj_b.weight", {hv, h}, cuts_.gdn_value_heads()));
  HYBRIDATTN_ASSIGN(w.in_a,
                    loader_.stored(p + "in_proj_a.weight", {hv, h}, cuts_.gdn_value_heads()));
  return {};
}

Result<GdnWeights> ModelLoader::gdn(const std::string& p) {
  GdnWeights w;
  HYBRIDATTN_TRY(gdn_projections(p, w));
  const std::int64_t hv = c_.linear_num_value_heads;
  const std::int64_t width = c_.linear_conv_kernel_dim;
  const std::int64_t channels = 2 * std::int64_t{c_.linear_num_key_heads} * c_.linear_key_head_dim +
                                hv * c_.linear_value_head_dim;
  HYBRIDATTN_ASSIGN(
      const ConstTensorView conv,
      loader_.floats(p + "conv1d.weight", {channels, 1, width}, cuts_.gdn_channels()));
  w.conv = conv.at(0, {conv.dim(0), width}, {width, 1});
  HYBRIDATTN_ASSIGN(w.a_log, loader_.floats(p + "A_log", {hv}, cuts_.gdn_value_heads()));
  HYBRIDATTN_ASSIGN(w.dt_bias, loader_.floats(p + "dt_bias", {hv}, cuts_.gdn_value_heads()));
  HYBRIDATTN_ASSIGN(w.norm, loader_.floats(p + "norm.weight", {c_.linear_value_head_dim}));
  HYBRIDATTN_ASSIGN(
      w.out_proj, loader_.matrix(p + "out_proj.weight",
                                 {c_.hidden_size, hv * c_.linear_value_head_dim}, cuts_.gdn_out()));
  return w;
}

Result<MlpWeights> ModelLoader::mlp(const std::string& p, std::int64_t width) {
  MlpWeights w;
  const std::int64_t h = c_.hidden_size;
  const WeightCut rows = WeightCuts::wide(width), columns = WeightCuts::narrow(width);
  HYBRIDATTN_ASSIGN(w.gate, loader_.matrix(p + "gate_proj.weight", {width, h}, rows));
  HYBRIDATTN_ASSIGN(w.up, loader_.matrix(p + "up_proj.weight", {width, h}, rows));
  HYBRIDATTN_ASSIGN(w.down, loader_.matrix(p + "down_proj.weight", {h, width}, columns));
  return w;
}

Status ModelLoader::stacked_experts(const std::string& p, MoeWeights& w) {
  const std::int64_t e = c_.moe.num_experts;
  const std::int64_t i = c_.moe.expert_width;
  const std::int64_t h = c_.hidden_size;
  const std::int64_t own = own_.moe.expert_width;
  HYBRIDATTN_ASSIGN(const WeightMatrix gate_up,
                    loader_.matrix(p + "gate_up_proj", {e, 2 * i, h}, cuts_.stacked_wide(), 2));
  HYBRIDATTN_ASSIGN(const WeightMatrix down,
                    loader_.matrix(p + "down_proj", {e, h, i}, cuts_.stacked_narrow()));
  for (std::int64_t x = 0; x < e; ++x) {
    MlpWeights expert;
    expert.gate = rows_of(gate_up, x * 2 * own, own);
    expert.up = rows_of(gate_up, x * 2 * own + own, own);
    expert.down = rows_of(down, x * h, h);
    w.experts.push_back(expert);
  }
  return {};
}

Result<MoeWeights> ModelLoader::moe(const std::string& p) {
  MoeWeights w;
  HYBRIDATTN_ASSIGN(w.router,
                    loader_.stored(p + "gate.weight", {c_.moe.num_experts, c_.hidden_size}));
  if (loader_.has(p + "experts.gate_up_proj")) {
    HYBRIDATTN_TRY(stacked_experts(p + "experts.", w));
  } else {
    for (std::int32_t e = 0; e < c_.moe.num_experts; ++e) {
      HYBRIDATTN_ASSIGN(MlpWeights expert,
                        mlp(p + "experts." + std::to_string(e) + ".", c_.moe.expert_width));
      w.experts.push_back(expert);
    }
  }
  if (c_.moe.shared_expert_width > 0) {
    HYBRIDATTN_ASSIGN(w.shared, mlp(p + "shared_expert.", c_.moe.shared_expert_width));
    HYBRIDATTN_ASSIGN(w.shared_gate,
                      loader_.stored(p + "shared_expert_gate.weight", {1, c_.hidden_size}));
  }
  return w;
}

}  // namespace

std::string_view weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kStored: return "stored";
    case WeightFormat::kInt8: return "int8";
    case WeightFormat::kJoined: return "joined";
  }
  return "unknown";
}

Result<std::unique_ptr<ModelWeights>> ModelWeights::load(const std::filesystem::path& directory,
                                                         const ModelConfig& config,
                                                         const LoadProgress& progress,
                                                         WeightFormat format, Executor* executor,
                                                         const ModelShard& shard) {
  HYBRIDATTN_ASSIGN(const ModelConfig own, shard_config(config, shard.size));
  HYBRIDATTN_ASSIGN(Checkpoint checkpoint, Checkpoint::open(directory));
  auto weights = std::unique_ptr<ModelWeights>(new ModelWeights(std::move(checkpoint)));
  weights->format = format;
  WeightLoader loader(*weights, progress, executor, shard);
  HYBRIDATTN_TRY(ModelLoader(config, own, loader).load(*weights, shard));
  return weights;
}

}  // namespace hybridattn::engine
