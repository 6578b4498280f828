#include "engine/checkpoint/config_refusals.h"

#include <string_view>

#include "engine/checkpoint/json_document.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

struct Refusal {
  const char* key;
  Off off;
};

constexpr Refusal kRefusals[] = {
    // Weights of another form.
    {"quantization", Off::kNull},
    {"compression_config", Off::kNull},
    // Biases.
    {"attention_bias", Off::kFalse},
    {"qkv_bias", Off::kFalse},
    {"use_qkv_bias", Off::kFalse},
    {"mlp_bias", Off::kFalse},
    {"use_bias", Off::kFalse},
    {"lm_head_bias", Off::kFalse},
    // Attention.
    {"attn_output_gate", Off::kTrue},
    {"use_qk_norm", Off::kTrue},
    {"is_causal", Off::kTrue},
    {"use_bidirectional_attention", Off::kFalse},
    {"use_sliding_window", Off::kFalse},
    {"attention_chunk_size", Off::kNull},
    {"attn_logit_softcapping", Off::kZero},
    {"clip_qkv", Off::kNull},
    {"query_pre_attn_scalar", Off::kNull},
    {"attention_multiplier", Off::kOne},
    {"key_multiplier", Off::kOne},
    {"rope_interleave", Off::kFalse},
    {"rope_local_base_freq", Off::kNull},
    {"no_rope_layers", Off::kNull},
    // Gated DeltaNet.
    {"allow_neg_eigval", Off::kFalse},
    {"linear_allow_neg_eigval", Off::kFalse},
    // The residual stream and the ends.
    {"embedding_multiplier", Off::kOne},
    {"residual_multiplier", Off::kOne},
    {"layer_scale", Off::kNull},
    {"logit_scale", Off::kOne},
    {"logits_scaling", Off::kOne},
    {"lm_head_multiplier", Off::kOne},
    {"final_logit_softcapping", Off::kZero},
    // Routing.
    {"scoring_func", Off::kSoftmax},
    {"topk_method", Off::kGreedy},
    {"n_group", Off::kOne},
    {"topk_group", Off::kOne},
    {"routed_scaling_factor", Off::kOne},
    {"first_k_dense_replace", Off::kZero},
};

bool is_off(const json& value, Off off) {
  switch (off) {
    case Off::kFalse:
    case Off::kNull: return value == false;
    case Off::kTrue: return value == true;
    case Off::kZero: return value == false || (value.is_number() && value == 0);
    case Off::kOne: return value.is_number() && value == 1;
    case Off::kSoftmax: return value == "softmax";
    case Off::kGreedy: return value == "greedy";
  }
  return false;
}

std::string_view wanted(Off off) {
  switch (off) {
    case Off::kFalse: return "false";
    case Off::kTrue: return "true";
    case Off::kZero: return "null or 0";
    case Off::kOne: return "null or 1";
    case Off::kNull: return "null";
    case Off::kSoftmax: return "softmax";
    case Off::kGreedy: return "greedy";
  }
  return "null";
}

/// Which format it is says more than that there is an object.
Status check_quantization(const ConfigFields& fields, const std::string& key) {
  const json& value = fields.at(key);
  if (!value.is_object()) return check_off(fields, key, Off::kNull);
  return error(StatusCode::kUnsupported, fields.place(), ": ", key, ": found quant_method ",
               json_brief(json_at(value, "quant_method")),
               "; supported: none (weights in bfloat16, float16 or float32)");
}

/// Old files of the wider family have a sliding_window that use_sliding_window switches off.
Status check_sliding_window(const ConfigFields& fields) {
  if (fields.has("use_sliding_window") || check_off(fields, "sliding_window", Off::kNull).ok()) {
    return {};
  }
  return fields.unsupported("sliding_window", "null, or any with use_sliding_window false");
}

}  // namespace

Status check_off(const ConfigFields& fields, const std::string& key, Off off) {
  if (off == Off::kFalse || off == Off::kTrue) return fields.require_bool(key, off == Off::kTrue);
  if (!fields.has(key) || is_off(fields.at(key), off)) return {};
  return fields.unsupported(key, wanted(off));
}

Status check_refusals(const ConfigFields& fields) {
  HYBRIDATTN_TRY(check_quantization(fields, "quantization_config"));
  for (const Refusal& refusal : kRefusals) {
    HYBRIDATTN_TRY(check_off(fields, refusal.key, refusal.off));
  }
  return check_sliding_window(fields);
}

}  // namespace hybridattn::engine
