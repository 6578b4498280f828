// The configs of this repository and of published models give the right values.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/checkpoint/model_config.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"

namespace hybridattn::engine {
namespace {

using Ids = std::vector<std::int32_t>;

/// The config, or a failed test and an empty one.
ModelConfig good(const Result<ModelConfig>& result) {
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : ModelConfig();
}

ModelConfig load(std::string_view folder) { return good(ModelConfig::load(source_path(folder))); }

std::string layer_string(const ModelConfig& config) {
  std::string out;
  for (const LayerKind kind : config.layers) out += kind == LayerKind::kFullAttention ? 'F' : 'l';
  return out;
}

/// hidden, vocab, FFN, heads Q/KV, head dim, rotary dim.
void expect_body(const ModelConfig& config, const std::vector<std::int32_t>& wanted) {
  EXPECT_EQ(
      (std::vector<std::int32_t>{config.hidden_size, config.vocab_size, config.intermediate_size,
                                 config.num_attention_heads, config.num_key_value_heads,
                                 config.head_dim, config.rotary_dim}),
      wanted);
}

/// Heads K/V, dims K/V, taps.
void expect_linear(const ModelConfig& config, const std::vector<std::int32_t>& wanted) {
  EXPECT_EQ((std::vector<std::int32_t>{config.linear_num_key_heads, config.linear_num_value_heads,
                                       config.linear_key_head_dim, config.linear_value_head_dim,
                                       config.linear_conv_kernel_dim}),
            wanted);
}

/// Experts, of these a token, width, shared width; in every layer.
void expect_moe(const ModelConfig& config, const std::vector<std::int32_t>& wanted) {
  EXPECT_EQ((std::vector<std::int32_t>{config.moe.num_experts, config.moe.experts_per_token,
                                       config.moe.expert_width, config.moe.shared_expert_width}),
            wanted);
  EXPECT_EQ(config.moe_layers, std::vector<bool>(config.layers.size(), wanted[0] > 0));
  EXPECT_TRUE(config.moe.norm_topk_prob);
}

TEST(ModelConfigFiles, TinyModel) {
  const ModelConfig config = load("assets/tiny-model");
  EXPECT_EQ(config.family, ModelFamily::kQwen35);
  expect_body(config, {256, 4096, 512, 4, 2, 64, 16});
  expect_linear(config, {2, 4, 64, 64, 4});
  expect_moe(config, {0, 0, 0, 0});
  EXPECT_EQ(layer_string(config), "lllFlllF");
  EXPECT_EQ(config.max_position_embeddings, 4096);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_ids, Ids{0});
}

TEST(ModelConfigFiles, GoldenDense) {
  const ModelConfig config = load("tests/data/golden_a");
  expect_body(config, {128, 512, 256, 4, 2, 64, 16});
  expect_linear(config, {2, 4, 64, 64, 4});
  EXPECT_EQ(layer_string(config), "lllF");
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_TRUE(config.tie_stated);
  EXPECT_EQ(config.eos_token_ids, Ids{});
}

TEST(ModelConfigFiles, GoldenNested) {
  const ModelConfig config = load("tests/data/golden_nested");
  EXPECT_EQ(config.model_type, "qwen3_5");
  expect_body(config, {96, 384, 160, 6, 2, 96, 24});
  expect_linear(config, {2, 6, 32, 48, 4});
  EXPECT_EQ(layer_string(config), "FllFl");
  EXPECT_EQ(config.rope_theta, 1e7);
  EXPECT_EQ(config.dtype, DType::kBF16);
}

TEST(ModelConfigFiles, GoldenNext) {
  const ModelConfig config = load("tests/data/golden_c");
  EXPECT_EQ(config.family, ModelFamily::kQwen3Next);
  expect_body(config, {128, 512, 0, 4, 1, 64, 16});
  expect_linear(config, {2, 4, 32, 64, 4});
  expect_moe(config, {8, 3, 64, 96});
  EXPECT_EQ(layer_string(config), "lllF");
}

TEST(ModelConfigFiles, GoldenMoeStacked) {
  const ModelConfig config = load("tests/data/golden_moe_stacked");
  EXPECT_EQ(config.family, ModelFamily::kQwen35Moe);
  expect_body(config, {128, 512, 0, 4, 1, 64, 32});
  expect_linear(config, {2, 8, 32, 32, 4});
  expect_moe(config, {8, 2, 32, 48});
  EXPECT_EQ(layer_string(config), "lFll");
  EXPECT_EQ(config.rope_theta, 1e5);
  EXPECT_TRUE(config.tie_word_embeddings);
}

TEST(ModelConfigFiles, GoldenMoeSplit) {
  const ModelConfig config = load("tests/data/golden_moe_split");
  expect_body(config, {96, 448, 0, 3, 1, 64, 16});
  expect_linear(config, {3, 3, 64, 64, 4});
  expect_moe(config, {10, 3, 24, 40});
  EXPECT_EQ(layer_string(config), "lFlFlF");
  EXPECT_EQ(config.rope_theta, 5e4);
  EXPECT_FALSE(config.tie_stated);
}

TEST(ModelConfigFiles, PathsInMessages) {
  const TempFolder folder;
  const std::string file = (folder.path() / "config.json").string();
  expect_error(ModelConfig::load(folder.path()).status(), StatusCode::kNotFound, {file});
  folder.write("config.json", R"({"model_type":"qwen2"})");
  expect_error(ModelConfig::load(folder.path()).status(), StatusCode::kUnsupported,
               {file + ": model_type: found \"qwen2\""});
  std::filesystem::copy_file(source_path("tests/data/golden_a/config.json"), file,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(ModelConfig::load(folder.path()).ok());
  const std::string generation = folder.write("generation_config.json", "").string();
  expect_error(ModelConfig::load(folder.path()).status(), StatusCode::kDataLoss, {generation});
  folder.write("generation_config.json", R"({"eos_token_id":512})");
  expect_error(ModelConfig::load(folder.path()).status(), StatusCode::kDataLoss,
               {generation + ": eos_token_id: found 512"});
}

// --- Published models ----------------------------------------------------------------------------

/// What the text part of all multimodal models of the family has in common.
constexpr std::string_view kCommonText = R"("attention_bias": false, "attention_dropout": 0.0,
    "attn_output_gate": true, "dtype": "bfloat16", "eos_token_id": 248044,
    "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "initializer_range": 0.02,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
    "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false, "rms_norm_eps": 1e-06,
    "use_cache": true, "vocab_size": 248320, "mamba_ssm_dtype": "float32", "rope_parameters": {
      "mrope_interleaved": true, "mrope_section": [11, 11, 10], "rope_type": "default",
      "rope_theta": 10000000, "partial_rotary_factor": 0.25})";

constexpr std::string_view kGeneration = R"({"bos_token_id": 248044, "do_sample": true,
    "eos_token_id": [248046, 248044], "pad_token_id": 248044, "temperature": 1.0, "top_k": 20})";

/// A wrapper around the text part: its own fields, then the common ones.
ModelConfig published(std::string_view type, std::string_view tied, std::string_view own) {
  const std::string config = concat(
      R"({"architectures": ["Qwen3_5ForConditionalGeneration"], "image_token_id": 248056,
          "model_type": ")",
      type, R"(", "tie_word_embeddings": )", tied, R"(,
          "transformers_version": "4.57.0.dev0", "video_token_id": 248057, "vision_config": {
          "depth": 27, "hidden_act": "gelu_pytorch_tanh", "model_type": "qwen3_5"},
          "text_config": {"model_type": ")",
      type, R"(_text", )", own, ", ", kCommonText, "}}");
  return good(ModelConfig::parse(config, kGeneration));
}

void expect_family(const ModelConfig& config, std::int32_t linear, std::int32_t full) {
  EXPECT_EQ(config.count(LayerKind::kLinearAttention), linear);
  EXPECT_EQ(config.count(LayerKind::kFullAttention), full);
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    EXPECT_EQ(config.layers[i] == LayerKind::kFullAttention, i % 4 == 3) << "layer " << i;
  }
  EXPECT_EQ(config.rope_theta, 1e7);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.max_position_embeddings, 262144);
  EXPECT_EQ(config.output_gate, GateKind::kSilu);
}

TEST(ModelConfigFiles, Qwen35Small) {
  const ModelConfig config = published(
      "qwen3_5", "true", R"("hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24,
      "num_attention_heads": 8, "num_key_value_heads": 2, "linear_num_value_heads": 16)");
  expect_body(config, {1024, 248320, 3584, 8, 2, 256, 64});
  expect_linear(config, {16, 16, 128, 128, 4});
  expect_family(config, 18, 6);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_ids, (Ids{248044, 248046}));
}

TEST(ModelConfigFiles, Qwen36Dense) {
  const ModelConfig config =
      published("qwen3_5", "false", R"("hidden_size": 5120, "intermediate_size": 17408,
      "num_hidden_layers": 64, "num_attention_heads": 24, "num_key_value_heads": 4,
      "linear_num_value_heads": 48, "output_gate_type": "swish")");
  expect_body(config, {5120, 248320, 17408, 24, 4, 256, 64});
  expect_linear(config, {16, 48, 128, 128, 4});
  expect_family(config, 48, 16);
  EXPECT_FALSE(config.tie_word_embeddings);
}

TEST(ModelConfigFiles, Qwen35Moe) {
  const ModelConfig config =
      published("qwen3_5_moe", "false", R"("hidden_size": 2048, "num_hidden_layers": 40,
      "num_attention_heads": 16, "num_key_value_heads": 2, "linear_num_value_heads": 32,
      "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
      "shared_expert_intermediate_size": 512, "router_aux_loss_coef": 0.001)");
  EXPECT_EQ(config.family, ModelFamily::kQwen35Moe);
  expect_body(config, {2048, 248320, 0, 16, 2, 256, 64});
  expect_linear(config, {16, 32, 128, 128, 4});
  expect_moe(config, {256, 8, 512, 512});
  expect_family(config, 30, 10);
}

TEST(ModelConfigFiles, Qwen3Next) {
  const ModelConfig config = good(ModelConfig::parse(R"({
      "architectures": ["Qwen3NextForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645,
      "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048,
      "initializer_range": 0.02, "intermediate_size": 5120, "linear_conv_kernel_dim": 4,
      "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
      "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
      "model_type": "qwen3_next", "moe_intermediate_size": 512, "norm_topk_prob": true,
      "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10,
      "num_hidden_layers": 48, "num_key_value_heads": 2, "output_router_logits": false,
      "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_scaling": null,
      "rope_theta": 10000000, "router_aux_loss_coef": 0.001,
      "shared_expert_intermediate_size": 512, "tie_word_embeddings": false,
      "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
      "vocab_size": 151936})",
                                                     R"({"eos_token_id": [151645, 151643]})"));
  EXPECT_EQ(config.family, ModelFamily::kQwen3Next);
  expect_body(config, {2048, 151936, 0, 16, 2, 256, 64});
  expect_linear(config, {16, 32, 128, 128, 4});
  expect_moe(config, {512, 10, 512, 512});
  expect_family(config, 36, 12);
  EXPECT_EQ(config.eos_token_ids, (Ids{151645, 151643}));
}

// What save_pretrained of transformers 5.24 writes, shortened to 4 layers: none of it is refused.
TEST(ModelConfigFiles, AsTransformersWritesThem) {
  const ModelConfig config = good(ModelConfig::parse(R"({"image_token_id": 248056,
      "model_type": "qwen3_5_moe", "text_config": {"attention_bias": false,
      "attention_dropout": 0.0, "bos_token_id": null, "eos_token_id": null, "head_dim": 256,
      "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "layer_types": [
      "linear_attention", "linear_attention", "linear_attention", "full_attention"],
      "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
      "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 32768,
      "model_type": "qwen3_5_moe_text", "moe_intermediate_size": 512, "num_attention_heads": 16,
      "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 4,
      "num_key_value_heads": 2, "output_router_logits": false, "pad_token_id": null,
      "rms_norm_eps": 1e-06, "rope_parameters": {"partial_rotary_factor": 0.25,
      "rope_theta": 10000.0, "rope_type": "default"}, "router_aux_loss_coef": 0.001,
      "shared_expert_intermediate_size": 512, "tie_word_embeddings": false, "use_cache": true,
      "vocab_size": 248320}, "tie_word_embeddings": false, "transformers_version": "5.24.0",
      "video_token_id": 248057, "vision_config": {"depth": 27, "hidden_act": "gelu_pytorch_tanh",
      "hidden_size": 1152, "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 4304,
      "model_type": "qwen3_5_moe_vision", "num_heads": 16, "num_position_embeddings": 2304,
      "out_hidden_size": 3584, "patch_size": 16, "rope_parameters": {"rope_theta": 10000.0,
      "rope_type": "axial"}, "spatial_merge_size": 2, "temporal_patch_size": 2},
      "vision_end_token_id": 248054, "vision_start_token_id": 248053})",
                                                     ""));
  expect_body(config, {2048, 248320, 0, 16, 2, 256, 64});
  expect_moe(config, {256, 8, 512, 512});
}

}  // namespace
}  // namespace hybridattn::engine
