// Any text, or any change to a legal model, as config.json: refused in one line, or a ModelConfig
// whose every number the engine can build on.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/checkpoint/model_config.h"
#include "tests/fuzz/fuzz.h"

namespace hybridattn::fuzz {
namespace {

using engine::LayerKind;
using engine::ModelConfig;
using engine::ModelFamily;
using nlohmann::json;

constexpr const char* kKeys[] = {"model_type",
                                 "hidden_size",
                                 "vocab_size",
                                 "intermediate_size",
                                 "num_hidden_layers",
                                 "num_attention_heads",
                                 "num_key_value_heads",
                                 "head_dim",
                                 "layer_types",
                                 "full_attention_interval",
                                 "rms_norm_eps",
                                 "max_position_embeddings",
                                 "dtype",
                                 "torch_dtype",
                                 "tie_word_embeddings",
                                 "rope_theta",
                                 "partial_rotary_factor",
                                 "rope_parameters",
                                 "rope_scaling",
                                 "linear_num_key_heads",
                                 "linear_num_value_heads",
                                 "linear_key_head_dim",
                                 "linear_value_head_dim",
                                 "linear_conv_kernel_dim",
                                 "output_gate_type",
                                 "num_experts",
                                 "num_experts_per_tok",
                                 "moe_intermediate_size",
                                 "shared_expert_intermediate_size",
                                 "norm_topk_prob",
                                 "decoder_sparse_step",
                                 "mlp_only_layers",
                                 "eos_token_id",
                                 "hidden_act",
                                 "mamba_ssm_dtype",
                                 "text_config",
                                 "attention_bias",
                                 "sliding_window"};
constexpr const char* kWords[] = {"linear_attention", "full_attention", "default",   "silu",
                                  "sigmoid",          "bfloat16",       "float16",   "float32",
                                  "qwen3_5",          "qwen3_5_text",   "qwen3_next"};
constexpr const char* kTypes[] = {"qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"};
constexpr std::int64_t kCorners[] = {-1, 0, 1, 255, 256, 65536, 1 << 24, INT32_MAX, INT64_MAX};

json legal(const std::string& type) {
  json config{{"model_type", type},     {"hidden_size", 128},       {"vocab_size", 512},
              {"num_hidden_layers", 8}, {"num_attention_heads", 4}, {"num_key_value_heads", 2}};
  if (type == kTypes[0]) {
    config["intermediate_size"] = 256;
  } else {
    config.update({{"num_experts", 8},
                   {"num_experts_per_tok", 2},
                   {"moe_intermediate_size", 32},
                   {"shared_expert_intermediate_size", 48}});
  }
  return config;
}

json any_value(Bytes& bytes, int depth = 0) {
  switch (bytes.integer(0, depth < 2 ? 8 : 6)) {
    case 0: return nullptr;
    case 1: return bytes.flag();
    case 2: return bytes.integer(0, 255);
    case 3: return kCorners[bytes.index(std::size(kCorners))];
    case 4: return static_cast<double>(bytes.integer(-512, 512)) / 256;
    case 5: return std::pow(10.0, static_cast<double>(bytes.integer(-320, 308)));
    case 6: return kWords[bytes.index(std::size(kWords))];
    case 7: {
      json list = json::array();
      for (std::int64_t i = bytes.integer(0, 9); i > 0; --i) {
        list.push_back(any_value(bytes, depth + 1));
      }
      return list;
    }
    default: {
      json object = json::object();
      for (std::int64_t i = bytes.integer(0, 3); i > 0; --i) {
        const std::string key = kKeys[bytes.index(std::size(kKeys))];
        object[key] = any_value(bytes, depth + 1);
      }
      return object;
    }
  }
}

/// A legal model with some fields changed, flat or below text_config.
std::string changed_model(Bytes& bytes) {
  const std::string type = kTypes[bytes.index(std::size(kTypes))];
  const bool nest = bytes.flag() && type != kTypes[2];
  json text = legal(type);
  json top = json::object();
  if (nest) top["model_type"] = type.substr(0, type.size() - 5);
  for (std::int64_t i = bytes.integer(0, 6); i > 0; --i) {
    json& level = nest && bytes.flag() ? top : text;
    const std::string key = kKeys[bytes.index(std::size(kKeys))];
    level[key] = any_value(bytes);
  }
  if (!nest) return text.dump();
  if (!top.contains("text_config")) top["text_config"] = std::move(text);
  return top.dump();
}

template <class Int>
void check_range(const char* what, Int value, std::int64_t low, std::int64_t high) {
  FUZZ_CHECK(low <= value && value <= high, what, " is ", value);
}

void check_attention(const ModelConfig& c) {
  check_range("num_attention_heads", c.num_attention_heads, 1, 1 << 16);
  check_range("num_key_value_heads", c.num_key_value_heads, 1, c.num_attention_heads);
  FUZZ_CHECK(c.num_attention_heads % c.num_key_value_heads == 0);
  check_range("head_dim", c.head_dim, 1, 512);
  check_range("rotary_dim", c.rotary_dim, 2, c.head_dim);
  FUZZ_CHECK(c.rotary_dim % 2 == 0);
  FUZZ_CHECK(std::isfinite(c.rope_theta) && c.rope_theta > 0);
}

void check_linear(const ModelConfig& c) {
  check_range("linear_num_key_heads", c.linear_num_key_heads, 1, 1 << 16);
  check_range("linear_num_value_heads", c.linear_num_value_heads, c.linear_num_key_heads, 1 << 16);
  FUZZ_CHECK(c.linear_num_value_heads % c.linear_num_key_heads == 0);
  for (const std::int32_t dim : {c.linear_key_head_dim, c.linear_value_head_dim}) {
    check_range("a linear head dim", dim, 16, 256);
    FUZZ_CHECK(dim % 16 == 0);
  }
  check_range("linear_conv_kernel_dim", c.linear_conv_kernel_dim, 2, 4);
}

void check_feed_forward(const ModelConfig& c) {
  FUZZ_CHECK(c.moe_layers.size() == c.layers.size());
  const auto sparse = std::count(c.moe_layers.begin(), c.moe_layers.end(), true);
  if (c.family == ModelFamily::kQwen35) FUZZ_CHECK(sparse == 0);
  if (c.family == ModelFamily::kQwen35Moe) FUZZ_CHECK(sparse == c.num_layers());
  if (sparse > 0) {
    check_range("num_experts", c.moe.num_experts, 1, 1 << 16);
    check_range("num_experts_per_tok", c.moe.experts_per_token, 1, c.moe.num_experts);
    check_range("moe_intermediate_size", c.moe.expert_width, 1, 1 << 20);
    check_range("shared_expert_intermediate_size", c.moe.shared_expert_width, 0, 1 << 20);
  }
  if (sparse < c.num_layers()) check_range("intermediate_size", c.intermediate_size, 1, 1 << 24);
}

void check_config(const ModelConfig& c) {
  check_range("hidden_size", c.hidden_size, 1, 1 << 20);
  check_range("vocab_size", c.vocab_size, 1, 1 << 24);
  check_range("layers", c.num_layers(), 1, 4096);
  FUZZ_CHECK(c.count(LayerKind::kFullAttention) + c.count(LayerKind::kLinearAttention) ==
             c.num_layers());
  check_range("max_position_embeddings", c.max_position_embeddings, 1, INT32_MAX);
  FUZZ_CHECK(c.rms_norm_eps > 0 && c.rms_norm_eps <= 1);
  FUZZ_CHECK(c.dtype == DType::kF32 || c.dtype == DType::kBF16 || c.dtype == DType::kF16);
  FUZZ_CHECK(c.tie_stated || !c.tie_word_embeddings);
  FUZZ_CHECK(std::set(c.eos_token_ids.begin(), c.eos_token_ids.end()).size() ==
             c.eos_token_ids.size());
  for (const std::int32_t id : c.eos_token_ids) check_range("an eos id", id, 0, c.vocab_size - 1);
  check_attention(c);
  check_linear(c);
  check_feed_forward(c);
}

std::string summary(const ModelConfig& c) {
  std::string text =
      concat(static_cast<int>(c.family), c.model_type, " ", c.hidden_size, " ", c.vocab_size, " ",
             c.intermediate_size, " ", c.rms_norm_eps, " ", c.max_position_embeddings, " ",
             static_cast<int>(c.dtype), " ", c.tie_word_embeddings, " ", c.num_attention_heads, " ",
             c.num_key_value_heads, " ", c.head_dim, " ", c.rotary_dim, " ", c.rope_theta, " ",
             c.linear_num_key_heads, " ", c.linear_num_value_heads, " ", c.linear_key_head_dim, " ",
             c.linear_value_head_dim, " ", c.linear_conv_kernel_dim, " ",
             static_cast<int>(c.output_gate), " ", c.moe.num_experts, " ", c.moe.experts_per_token,
             " ", c.moe.expert_width, " ", c.moe.shared_expert_width, " ", c.moe.norm_topk_prob);
  for (const LayerKind kind : c.layers) text += concat(" ", static_cast<int>(kind));
  for (const bool moe : c.moe_layers) text += concat(" ", moe);
  for (const std::int32_t id : c.eos_token_ids) text += concat(" ", id);
  return text;
}

/// Spaces and the order of keys say nothing.
void check_same_when_rewritten(const ModelConfig& config, const std::string& text,
                               const std::string& generation) {
  const json root = json::parse(text, nullptr, false);
  FUZZ_CHECK(root.is_object());
  const auto again = ModelConfig::parse(root.dump(2), generation);
  FUZZ_CHECK(again.ok(), again.status().message());
  FUZZ_CHECK(summary(*again) == summary(config), summary(*again), " and ", summary(config));
}

}  // namespace
}  // namespace hybridattn::fuzz

using namespace hybridattn::fuzz;
using hybridattn::StatusCode;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  std::string text;
  std::string generation;
  if (bytes.flag()) {
    text = bytes.rest();
    const std::size_t end = text.find('\0');
    if (end != std::string::npos) {
      generation = text.substr(end + 1);
      text.resize(end);
    }
  } else {
    text = changed_model(bytes);
    generation = bytes.rest();
  }
  const auto config = ModelConfig::parse(text, generation);
  if (!config.ok()) {
    check_refusal(config.status(), {StatusCode::kDataLoss, StatusCode::kUnsupported});
    return 0;
  }
  check_config(*config);
  check_same_when_rewritten(*config, text, generation);
  return 0;
}
