#include "engine/checkpoint/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <optional>
#include <system_error>

#include "engine/checkpoint/config_fields.h"
#include "engine/checkpoint/config_levels.h"
#include "engine/checkpoint/config_refusals.h"
#include "engine/checkpoint/config_rope.h"
#include "engine/checkpoint/json_document.h"
#include "engine/text/quote.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

// Far above every known model, and low enough that the element count of any one weight stays below
// 2^62 and the width of any projection below 2^31.
constexpr IntRange kHidden{1, 1 << 20};
constexpr IntRange kVocab{1, 1 << 24};
constexpr IntRange kWidth{1, 1 << 24};
constexpr IntRange kLayers{1, 4096};
constexpr IntRange kHeads{1, 1 << 16};
constexpr IntRange kHeadDim{1, 512};
constexpr IntRange kExperts{1, 1 << 16};
constexpr IntRange kExpertWidth{1, 1 << 20};
constexpr IntRange kPositions{1, INT32_MAX};
constexpr IntRange kAnyPositive{1, INT32_MAX};

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{16} << 20;

struct TypeName {
  std::string_view name;
  ModelFamily family;
  bool may_nest;                     ///< has its fields in text_config
  std::string_view text_model_type;  ///< what text_config may then be
};
constexpr std::array<TypeName, 5> kTypes{{
    {"qwen3_5", ModelFamily::kQwen35, true, "qwen3_5_text"},
    {"qwen3_5_text", ModelFamily::kQwen35, false, ""},
    {"qwen3_5_moe", ModelFamily::kQwen35Moe, true, "qwen3_5_moe_text"},
    {"qwen3_5_moe_text", ModelFamily::kQwen35Moe, false, ""},
    {"qwen3_next", ModelFamily::kQwen3Next, false, ""},
}};
constexpr std::string_view kTypeList =
    "qwen3_5, qwen3_5_text, qwen3_5_moe, qwen3_5_moe_text, qwen3_next";

Result<const TypeName*> read_model_type(const ConfigFields& top, ModelConfig& config) {
  if (!top.at("model_type").is_string()) {
    return top.wrong("model_type", concat("one of ", kTypeList));
  }
  config.model_type = top.at("model_type").get<std::string>();
  for (const TypeName& type : kTypes) {
    if (type.name != config.model_type) continue;
    config.family = type.family;
    return &type;
  }
  return top.unsupported("model_type", kTypeList);
}

Result<Levels> read_levels(const json& root, const std::string& file, ModelConfig& config) {
  if (!root.is_object()) {
    return data_loss(file, ": found ", json_brief(root), "; wanted an object");
  }
  const ConfigFields top(root, file);
  HYBRIDATTN_ASSIGN(const TypeName* type, read_model_type(top, config));
  if (!top.has("text_config")) return Levels{top, top, false};
  if (!type->may_nest) {
    return top.wrong("text_config", concat("none with model_type ", type->name));
  }
  const json& section = top.at("text_config");
  if (!section.is_object()) return top.wrong("text_config", "an object");
  const ConfigFields text(section, concat(file, ": text_config"));
  HYBRIDATTN_ASSIGN(const std::string inner, text.string_or("model_type", type->text_model_type));
  if (inner != type->text_model_type && inner != type->name) {
    return text.wrong("model_type",
                      concat("\"", type->text_model_type, "\" below \"", type->name, "\""));
  }
  const Levels levels{top, text, true};
  HYBRIDATTN_TRY(check_levels(levels));
  return levels;
}

// --- What this engine would compute wrongly ------------------------------------------------------

Status check_supported(const Levels& levels) {
  HYBRIDATTN_TRY(check_refusals(levels.top));
  HYBRIDATTN_TRY(check_refusals(levels.text));
  HYBRIDATTN_TRY(levels.text.require_choice("hidden_act", {"silu", "swish"}));
  return levels.text.require_choice("mamba_ssm_dtype", {"float32", "bfloat16"});
}

// --- The parts of a model ------------------------------------------------------------------------

Status read_sizes(const Levels& levels, ModelConfig& config) {
  const ConfigFields& text = levels.text;
  HYBRIDATTN_ASSIGN(config.hidden_size, text.require_int("hidden_size", kHidden));
  HYBRIDATTN_ASSIGN(config.vocab_size, text.require_int("vocab_size", kVocab));
  HYBRIDATTN_ASSIGN(config.max_position_embeddings,
                    text.int_or("max_position_embeddings", 32768, kPositions));
  HYBRIDATTN_ASSIGN(const double eps, text.number_or("rms_norm_eps", 1e-6));
  config.rms_norm_eps = static_cast<float>(std::clamp(eps, -1.0, 2.0));
  if (!(config.rms_norm_eps > 0.0f && config.rms_norm_eps <= 1.0f)) {
    return text.wrong("rms_norm_eps", "a number above 0 and at most 1, as a float");
  }
  return {};
}

Status read_dtype(const Levels& levels, ModelConfig& config) {
  config.dtype = DType::kF32;
  for (const ConfigFields* fields : {&levels.text, &levels.top}) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (!fields->has(key)) continue;
      HYBRIDATTN_TRY(fields->require_choice(key, {"bfloat16", "float16", "float32"}));
      const auto& name = fields->at(key).get_ref<const std::string&>();
      if (name == "bfloat16") config.dtype = DType::kBF16;
      if (name == "float16") config.dtype = DType::kF16;
      return {};
    }
  }
  return {};
}

Result<LayerKind> layer_kind(const ConfigFields& text, const json& entry, std::size_t index) {
  if (entry == "linear_attention") return LayerKind::kLinearAttention;
  if (entry == "full_attention") return LayerKind::kFullAttention;
  const StatusCode code = entry.is_string() ? StatusCode::kUnsupported : StatusCode::kDataLoss;
  return error(code, text.place(), ": layer_types[", index, "]: found ", json_brief(entry),
               "; supported: \"linear_attention\", \"full_attention\"");
}

Status read_layers(const ConfigFields& text, ModelConfig& config) {
  HYBRIDATTN_ASSIGN(const std::int32_t count, text.require_int("num_hidden_layers", kLayers));
  HYBRIDATTN_ASSIGN(const std::int32_t interval,
                    text.int_or("full_attention_interval", 4, kAnyPositive));
  config.layers.clear();
  if (!text.has("layer_types")) {
    for (std::int32_t i = 0; i < count; ++i) {
      const bool full = (i + 1) % interval == 0;
      config.layers.push_back(full ? LayerKind::kFullAttention : LayerKind::kLinearAttention);
    }
    return {};
  }
  const json& types = text.at("layer_types");
  if (!types.is_array() || types.size() != static_cast<std::size_t>(count)) {
    return text.wrong("layer_types", concat("an array of num_hidden_layers = ", count));
  }
  for (std::size_t i = 0; i < types.size(); ++i) {
    HYBRIDATTN_ASSIGN(const LayerKind kind, layer_kind(text, types[i], i));
    config.layers.push_back(kind);
  }
  return {};
}

Status read_full_attention(const ConfigFields& text, ModelConfig& config) {
  HYBRIDATTN_ASSIGN(config.num_attention_heads, text.require_int("num_attention_heads", kHeads));
  HYBRIDATTN_ASSIGN(config.num_key_value_heads, text.require_int("num_key_value_heads", kHeads));
  HYBRIDATTN_ASSIGN(config.head_dim, text.int_or("head_dim", 256, kHeadDim));
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    return text.wrong("num_attention_heads",
                      concat("a multiple of num_key_value_heads = ", config.num_key_value_heads));
  }
  return {};
}

Status read_linear_head_dim(const ConfigFields& text, const std::string& key, std::int32_t& out) {
  HYBRIDATTN_ASSIGN(out, text.int_or(key, 128, kAnyPositive));
  if (out < 16 || out > 256 || out % 16 != 0) {
    return text.unsupported(key, "a multiple of 16, 16 to 256");
  }
  return {};
}

Status read_output_gate(const ConfigFields& text, ModelConfig& config) {
  HYBRIDATTN_TRY(text.require_choice("output_gate_type", {"silu", "swish", "sigmoid"}));
  const bool sigmoid = text.at("output_gate_type") == "sigmoid";
  config.output_gate = sigmoid ? GateKind::kSigmoid : GateKind::kSilu;
  return {};
}

Status read_linear_attention(const ConfigFields& text, ModelConfig& config) {
  HYBRIDATTN_ASSIGN(config.linear_num_key_heads, text.int_or("linear_num_key_heads", 16, kHeads));
  HYBRIDATTN_ASSIGN(config.linear_num_value_heads,
                    text.int_or("linear_num_value_heads", 32, kHeads));
  if (config.linear_num_value_heads % config.linear_num_key_heads != 0) {
    return text.wrong("linear_num_value_heads",
                      concat("a multiple of linear_num_key_heads = ", config.linear_num_key_heads));
  }
  HYBRIDATTN_TRY(read_linear_head_dim(text, "linear_key_head_dim", config.linear_key_head_dim));
  HYBRIDATTN_TRY(read_linear_head_dim(text, "linear_value_head_dim", config.linear_value_head_dim));
  HYBRIDATTN_ASSIGN(config.linear_conv_kernel_dim,
                    text.int_or("linear_conv_kernel_dim", 4, kAnyPositive));
  if (config.linear_conv_kernel_dim < 2 || config.linear_conv_kernel_dim > 4) {
    return text.unsupported("linear_conv_kernel_dim", "2 to 4");
  }
  return read_output_gate(text, config);
}

// --- Feed-forward layers -------------------------------------------------------------------------

/// Only Qwen3-Next mixes dense and MoE layers; elsewhere the fields must say what holds anyway.
Status read_moe_layers(const ConfigFields& text, std::int32_t num_experts, ModelConfig& config) {
  const std::int32_t layers = config.num_layers();
  HYBRIDATTN_ASSIGN(const std::int32_t step, text.int_or("decoder_sparse_step", 1, kAnyPositive));
  HYBRIDATTN_ASSIGN(const std::vector<std::int32_t> dense,
                    text.ints("mlp_only_layers", {0, layers - 1}));
  if (config.family == ModelFamily::kQwen35Moe) {
    if (step != 1) return text.unsupported("decoder_sparse_step", "1");
    if (!dense.empty()) return text.unsupported("mlp_only_layers", "an empty array");
  }
  config.moe_layers.assign(static_cast<std::size_t>(layers), false);
  for (std::int32_t i = 0; i < layers; ++i) {
    const bool sparse = num_experts > 0 && (i + 1) % step == 0;
    const bool listed = std::find(dense.begin(), dense.end(), i) != dense.end();
    config.moe_layers[static_cast<std::size_t>(i)] = sparse && !listed;
  }
  return {};
}

Status read_moe(const ConfigFields& text, MoeConfig& moe) {
  HYBRIDATTN_ASSIGN(moe.num_experts, text.require_int("num_experts", kExperts));
  HYBRIDATTN_ASSIGN(moe.experts_per_token, text.require_int("num_experts_per_tok", kExperts));
  if (moe.experts_per_token > moe.num_experts) {
    return text.wrong("num_experts_per_tok", concat("at most num_experts = ", moe.num_experts));
  }
  HYBRIDATTN_ASSIGN(moe.expert_width, text.require_int("moe_intermediate_size", kExpertWidth));
  HYBRIDATTN_ASSIGN(moe.shared_expert_width,
                    text.require_int("shared_expert_intermediate_size", {0, kExpertWidth.most}));
  HYBRIDATTN_ASSIGN(moe.norm_topk_prob, text.bool_or("norm_topk_prob", true));
  return {};
}

Status read_feed_forward(const ConfigFields& text, ModelConfig& config) {
  const bool always_moe = config.family == ModelFamily::kQwen35Moe;
  std::int32_t experts = 0;
  if (config.family == ModelFamily::kQwen35) {
    HYBRIDATTN_ASSIGN(experts, text.int_or("num_experts", 0, {0, kExperts.most}));
    if (experts > 0) return text.wrong("num_experts", concat("none with ", config.model_type));
  } else {
    HYBRIDATTN_ASSIGN(experts,
                      text.require_int("num_experts", {always_moe ? 1 : 0, kExperts.most}));
  }
  HYBRIDATTN_TRY(read_moe_layers(text, experts, config));
  const auto sparse = std::count(config.moe_layers.begin(), config.moe_layers.end(), true);
  if (sparse > 0) HYBRIDATTN_TRY(read_moe(text, config.moe));
  // The Qwen3.5 classes divide by the sum whatever the file says: a false there is never obeyed.
  if (always_moe) HYBRIDATTN_TRY(text.require_bool("norm_topk_prob", true));
  if (sparse == config.num_layers()) return {};
  HYBRIDATTN_ASSIGN(config.intermediate_size, text.require_int("intermediate_size", kWidth));
  return {};
}

// --- The ends of a model -------------------------------------------------------------------------

/// The class that the file names reads the field at the top level.
Status read_tie(const Levels& levels, ModelConfig& config) {
  const char* const key = "tie_word_embeddings";
  const ConfigFields& level = levels.top.has(key) ? levels.top : levels.text;
  config.tie_stated = level.has(key);
  HYBRIDATTN_ASSIGN(config.tie_word_embeddings, level.bool_or(key, false));
  return {};
}

Status add_eos(const ConfigFields& fields, ModelConfig& config) {
  HYBRIDATTN_ASSIGN(const std::vector<std::int32_t> ids,
                    fields.ints("eos_token_id", {0, config.vocab_size - 1}));
  std::vector<std::int32_t>& all = config.eos_token_ids;
  for (const std::int32_t id : ids) {
    if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
  }
  return {};
}

Result<ModelConfig> interpret(const json& root, const std::string& file) {
  ModelConfig config;
  HYBRIDATTN_ASSIGN(const Levels levels, read_levels(root, file, config));
  HYBRIDATTN_TRY(check_supported(levels));
  HYBRIDATTN_TRY(read_sizes(levels, config));
  HYBRIDATTN_TRY(read_dtype(levels, config));
  HYBRIDATTN_TRY(read_layers(levels.text, config));
  HYBRIDATTN_TRY(read_full_attention(levels.text, config));
  HYBRIDATTN_TRY(read_rope(levels.text, config));
  HYBRIDATTN_TRY(read_linear_attention(levels.text, config));
  HYBRIDATTN_TRY(read_feed_forward(levels.text, config));
  HYBRIDATTN_TRY(read_tie(levels, config));
  HYBRIDATTN_TRY(add_eos(levels.text, config));
  HYBRIDATTN_TRY(add_eos(levels.top, config));
  return config;
}

Result<json> parse_named(std::string_view text, const std::string& file) {
  Result<json> parsed = parse_json(text);
  if (!parsed.ok()) return with_place(file, parsed.status());
  return parsed;
}

/// `generation_text` may be empty: there is no such file.
Result<ModelConfig> parse_files(std::string_view text, const std::string& file,
                                std::string_view generation_text, const std::string& generation) {
  try {
    HYBRIDATTN_ASSIGN(const json root, parse_named(text, file));
    HYBRIDATTN_ASSIGN(ModelConfig config, interpret(root, file));
    if (generation_text.empty()) return config;
    HYBRIDATTN_ASSIGN(const json settings, parse_named(generation_text, generation));
    if (!settings.is_object()) {
      return data_loss(generation, ": found ", json_brief(settings), "; wanted an object");
    }
    HYBRIDATTN_TRY(add_eos(ConfigFields(settings, generation), config));
    return config;
  } catch (const std::exception& problem) {
    // The checks leave nothing for nlohmann to throw; what is left is memory.
    return error(StatusCode::kResourceExhausted, file,
                 ": reading it failed: ", in_quotes(problem.what()));
  }
}

}  // namespace

std::int32_t ModelConfig::count(LayerKind kind) const {
  return static_cast<std::int32_t>(std::count(layers.begin(), layers.end(), kind));
}

Result<ModelConfig> ModelConfig::parse(std::string_view config_json,
                                       std::string_view generation_json) {
  return parse_files(config_json, "config.json", generation_json, "generation_config.json");
}

Result<ModelConfig> ModelConfig::load(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "config.json";
  const std::filesystem::path generation = directory / "generation_config.json";
  HYBRIDATTN_ASSIGN(const std::string text, read_text_file(file, kMaxFileBytes));
  std::string generation_text;
  std::error_code code;
  if (std::filesystem::exists(generation, code)) {
    HYBRIDATTN_ASSIGN(generation_text, read_text_file(generation, kMaxFileBytes));
    if (generation_text.empty()) {
      return data_loss(path_text(generation), ": found 0 bytes; wanted a JSON object");
    }
  }
  return parse_files(text, path_text(file), generation_text, path_text(generation));
}

}  // namespace hybridattn::engine
