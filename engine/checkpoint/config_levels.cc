#include "engine/checkpoint/config_levels.h"

#include <optional>

#include "engine/checkpoint/json_document.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

/// What describes the text model. The rest of a wrapper's fields (tie_word_embeddings, token ids,
/// dtype, names) has its own place there.
constexpr const char* kTextFields[] = {"hidden_size",
                                       "vocab_size",
                                       "intermediate_size",
                                       "num_hidden_layers",
                                       "layer_types",
                                       "full_attention_interval",
                                       "max_position_embeddings",
                                       "hidden_act",
                                       "rms_norm_eps",
                                       "num_attention_heads",
                                       "num_key_value_heads",
                                       "head_dim",
                                       "rope_parameters",
                                       "rope_scaling",
                                       "rope_theta",
                                       "partial_rotary_factor",
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
                                       "mlp_only_layers"};

struct Difference {
  std::string path;  ///< from the field down
  const json* top;
  const json* text;
};

/// The first place where two values differ. Null counts as missing.
std::optional<Difference> difference(const json& top, const json& text, const std::string& path) {
  if (top.is_object() && text.is_object()) {
    for (const json* side : {&top, &text}) {
      for (const auto& [key, value] : side->items()) {
        const std::string inner = concat(path, ".", key_text(key));
        auto found = difference(json_at(top, key), json_at(text, key), inner);
        if (found.has_value()) return found;
      }
    }
    return std::nullopt;
  }
  if (top.is_array() && text.is_array() && top.size() == text.size()) {
    for (std::size_t i = 0; i < top.size(); ++i) {
      auto found = difference(top[i], text[i], concat(path, "[", i, "]"));
      if (found.has_value()) return found;
    }
    return std::nullopt;
  }
  if (top == text) return std::nullopt;
  return Difference{path, &top, &text};
}

}  // namespace

Status check_levels(const Levels& levels) {
  if (!levels.nested) return {};
  for (const char* key : kTextFields) {
    if (!levels.top.has(key)) continue;
    if (!levels.text.has(key)) {
      return levels.top.wrong(key, "it inside text_config, where the text model's fields stand");
    }
    const auto found = difference(levels.top.at(key), levels.text.at(key), key);
    if (!found.has_value()) continue;
    return data_loss(levels.top.place(), ": ", found->path, ": found ", json_brief(*found->top),
                     "; wanted the same as in text_config, ", json_brief(*found->text));
  }
  return {};
}

}  // namespace hybridattn::engine
