// ModelConfig: what config.json says about a hybrid model, checked and in one form.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hybridattn/dtype.h"
#include "hybridattn/ops/gated_rms_norm.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

/// The families that differ in tensor names or defaults.
enum class ModelFamily : std::uint8_t { kQwen35, kQwen35Moe, kQwen3Next };

enum class LayerKind : std::uint8_t { kLinearAttention, kFullAttention };

struct MoeConfig {
  std::int32_t num_experts = 0;  ///< 0 = a dense model
  std::int32_t experts_per_token = 0;
  std::int32_t expert_width = 0;         ///< moe_intermediate_size
  std::int32_t shared_expert_width = 0;  ///< shared_expert_intermediate_size; 0 = no shared expert
  bool norm_topk_prob = true;            ///< divide the chosen weights by their sum
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kQwen35;
  std::string model_type;  ///< as the file has it
  std::int32_t hidden_size = 0;
  std::int32_t vocab_size = 0;
  std::int32_t intermediate_size = 0;  ///< of dense layers; 0 where there are none
  std::vector<LayerKind> layers;       ///< one entry a layer
  std::vector<bool> moe_layers;        ///< one entry a layer: its feed-forward part is a MoE
  float rms_norm_eps = 1e-6f;
  std::int64_t max_position_embeddings = 0;
  DType dtype = DType::kBF16;  ///< of the weights, as the file says; f32 where it says nothing

  /// What the file says about lm_head. Exports get it wrong often enough that a loader should go by
  /// whether lm_head.weight is there, and take this as a hint for its messages.
  bool tie_word_embeddings = false;
  bool tie_stated = false;  ///< the file has the field

  // Full attention.
  std::int32_t num_attention_heads = 0;
  std::int32_t num_key_value_heads = 0;
  std::int32_t head_dim = 0;
  std::int32_t rotary_dim = 0;  ///< head_dim * partial_rotary_factor, even
  double rope_theta = 10000.0;

  // Gated DeltaNet.
  std::int32_t linear_num_key_heads = 0;
  std::int32_t linear_num_value_heads = 0;
  std::int32_t linear_key_head_dim = 0;
  std::int32_t linear_value_head_dim = 0;
  std::int32_t linear_conv_kernel_dim = 0;
  GateKind output_gate = GateKind::kSilu;

  MoeConfig moe;
  std::vector<std::int32_t> eos_token_ids;  ///< union over config.json and generation_config.json

  std::int32_t num_layers() const { return static_cast<std::int32_t>(layers.size()); }
  std::int32_t count(LayerKind kind) const;

  /// Reads DIR/config.json and, where it is there, DIR/generation_config.json.
  /// Errors: not_found, data_loss (wrong form, out of range, a contradiction), unsupported (a legal
  /// model that this engine would compute wrongly); each names the file, the field, the value found
  /// and the value wanted.
  static Result<ModelConfig> load(const std::filesystem::path& directory);
  /// The same from text. `generation_json` may be empty.
  static Result<ModelConfig> parse(std::string_view config_json, std::string_view generation_json);
};

}  // namespace hybridattn::engine
