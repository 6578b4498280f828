// A checkpoint of random weights with more heads than the recorded ones, written by the test that
// wants it.
#pragma once

#include <string>

#include "tests/engine/model/checkpoint_rewriter.h"

namespace hybridattn::engine {

/// Two key-value heads beside eight query heads, four key heads beside eight value heads: up to
/// four ranks, which share key-value heads.
class WideCheckpoint {
 public:
  /// `tied`: no lm_head. A vocabulary that four does not divide is whole on each of four ranks.
  explicit WideCheckpoint(std::int32_t vocab, bool tied) : vocab_(vocab) {
    nlohmann::json config = read_json(checkpoint_path("golden_a") / "config.json");
    config.merge_patch({{"hidden_size", kHidden},
                        {"vocab_size", vocab},
                        {"intermediate_size", kWidth},
                        {"head_dim", kHeadDim},
                        {"num_attention_heads", kQueries},
                        {"num_key_value_heads", kKeys},
                        {"linear_num_key_heads", kHk},
                        {"linear_num_value_heads", kHv},
                        {"linear_key_head_dim", kHeadDim},
                        {"linear_value_head_dim", kHeadDim},
                        {"tie_word_embeddings", tied}});
    folder_.write("config.json", config.dump());
    add("model.embed_tokens.weight", {vocab, kHidden}, 1);
    if (!tied) add("lm_head.weight", {vocab, kHidden}, 0.3f);
    add("model.norm.weight", {kHidden}, 0.1f);
    for (int layer = 0; layer < 4; ++layer) add_layer(layer);
    write_tensors(folder_.path() / "model.safetensors", tensors_);
  }

  const std::filesystem::path& path() const { return folder_.path(); }
  std::int32_t vocab() const { return vocab_; }

 private:
  static constexpr std::int64_t kHidden = 64, kWidth = 96, kHeadDim = 32;
  static constexpr std::int64_t kQueries = 8, kKeys = 2, kHk = 4, kHv = 8;

  void add(const std::string& name, const std::vector<std::int64_t>& shape, float deviation) {
    std::size_t count = 1;
    for (const std::int64_t dim : shape) count *= static_cast<std::size_t>(dim);
    RawTensor tensor{"BF16", shape, std::string(2 * count, '\0')};
    std::normal_distribution<float> value(0, deviation);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint16_t bits = to_bf16(value(generator_)).bits;
      std::memcpy(tensor.bytes.data() + 2 * i, &bits, 2);
    }
    tensors_[name] = std::move(tensor);
  }

  void add_layer(int layer) {
    const std::string p = concat("model.layers.", layer, ".");
    add(p + "input_layernorm.weight", {kHidden}, 0.1f);
    add(p + "post_attention_layernorm.weight", {kHidden}, 0.1f);
    add(p + "mlp.gate_proj.weight", {kWidth, kHidden}, 0.12f);
    add(p + "mlp.up_proj.weight", {kWidth, kHidden}, 0.12f);
    add(p + "mlp.down_proj.weight", {kHidden, kWidth}, 0.1f);
    if (layer == 3) {
      const std::string a = p + "self_attn.";
      add(a + "q_proj.weight", {2 * kQueries * kHeadDim, kHidden}, 0.12f);
      add(a + "k_proj.weight", {kKeys * kHeadDim, kHidden}, 0.12f);
      add(a + "v_proj.weight", {kKeys * kHeadDim, kHidden}, 0.12f);
      add(a + "o_proj.weight", {kHidden, kQueries * kHeadDim}, 0.06f);
      add(a + "q_norm.weight", {kHeadDim}, 0.1f);
      add(a + "k_norm.weight", {kHeadDim}, 0.1f);
      return;
    }
    const std::string g = p + "linear_attn.";
    const std::int64_t channels = (2 * kHk + kHv) * kHeadDim;
    add(g + "in_proj_qkv.weight", {channels, kHidden}, 0.12f);
    add(g + "in_proj_z.weight", {kHv * kHeadDim, kHidden}, 0.12f);
    add(g + "in_proj_b.weight", {kHv, kHidden}, 0.12f);
    add(g + "in_proj_a.weight", {kHv, kHidden}, 0.12f);
    add(g + "conv1d.weight", {channels, 1, 4}, 0.5f);
    add(g + "A_log", {kHv}, 1);
    add(g + "dt_bias", {kHv}, 1);
    add(g + "norm.weight", {kHeadDim}, 1);
    add(g + "out_proj.weight", {kHidden, kHv * kHeadDim}, 0.06f);
  }

  std::int32_t vocab_;
  std::mt19937 generator_{7};
  Tensors tensors_;
  TempFolder folder_;
};

}  // namespace hybridattn::engine
