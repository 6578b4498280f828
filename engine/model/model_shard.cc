#include "engine/model/model_shard.h"

#include <algorithm>

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// Makes a count that of a rank.
Status divide(const char* name, std::int32_t ranks, std::int32_t& count) {
  if (count % ranks != 0) {
    return invalid_argument("config.json: ", name, " is ", count, ", which ", ranks,
                            " ranks cannot share out evenly");
  }
  count /= ranks;
  return {};
}

}  // namespace

Result<ModelConfig> shard_config(const ModelConfig& config, std::int32_t ranks) {
  if (ranks < 1) return invalid_argument("shard_config: ranks is ", ranks, ", must be at least 1");
  ModelConfig c = config;
  HYBRIDATTN_TRY(divide("linear_num_key_heads", ranks, c.linear_num_key_heads));
  HYBRIDATTN_TRY(divide("linear_num_value_heads", ranks, c.linear_num_value_heads));
  HYBRIDATTN_TRY(divide("num_attention_heads", ranks, c.num_attention_heads));
  if (c.num_key_value_heads < ranks && ranks % c.num_key_value_heads == 0) {
    c.num_key_value_heads = 1;
  } else {
    HYBRIDATTN_TRY(divide("num_key_value_heads", ranks, c.num_key_value_heads));
  }
  const auto is_moe = [](bool moe) { return moe; };
  if (!std::all_of(c.moe_layers.begin(), c.moe_layers.end(), is_moe)) {
    HYBRIDATTN_TRY(divide("intermediate_size", ranks, c.intermediate_size));
  }
  if (c.moe.num_experts > 0) {
    HYBRIDATTN_TRY(divide("moe_intermediate_size", ranks, c.moe.expert_width));
    HYBRIDATTN_TRY(divide("shared_expert_intermediate_size", ranks, c.moe.shared_expert_width));
  }
  return c;
}

WeightCut WeightCuts::queries() const {
  return {0, {{"query heads", c_.num_attention_heads, 2 * c_.head_dim}}};
}
WeightCut WeightCuts::keys() const {
  return {0, {{"key-value heads", c_.num_key_value_heads, c_.head_dim, true}}};
}
WeightCut WeightCuts::attention_out() const {
  return {1, {{"query heads", c_.num_attention_heads, c_.head_dim}}};
}
WeightCut WeightCuts::gdn_channels() const {
  RadixLinearAttention layer;
  layer.num_k_heads = c_.linear_num_key_heads;
  layer.num_v_heads = c_.linear_num_value_heads;
  layer.head_k_dim = c_.linear_key_head_dim;
  layer.head_v_dim = c_.linear_value_head_dim;
  return {0, conv_channel_parts(layer)};
}
WeightCut WeightCuts::gdn_channels_and_z() const {
  WeightCut cut = gdn_channels();
  cut.parts.push_back(gdn_z().parts[0]);
  return cut;
}
WeightCut WeightCuts::gdn_z() const {
  return {0, {{"z", c_.linear_num_value_heads, c_.linear_value_head_dim}}};
}
WeightCut WeightCuts::gdn_value_heads() const {
  return {0, {{"value heads", c_.linear_num_value_heads, 1}}};
}
WeightCut WeightCuts::gdn_b_and_a() const {
  return {0, {{"b", c_.linear_num_value_heads, 1}, {"a", c_.linear_num_value_heads, 1}}};
}
WeightCut WeightCuts::gdn_out() const {
  return {1, {{"value heads", c_.linear_num_value_heads, c_.linear_value_head_dim}}};
}
WeightCut WeightCuts::wide(std::int64_t width) { return {0, {{"width", width, 1}}}; }
WeightCut WeightCuts::narrow(std::int64_t width) { return {1, {{"width", width, 1}}}; }
WeightCut WeightCuts::stacked_wide() const {
  return {1, {{"gate", c_.moe.expert_width, 1}, {"up", c_.moe.expert_width, 1}}};
}
WeightCut WeightCuts::stacked_narrow() const { return {2, {{"width", c_.moe.expert_width, 1}}}; }
WeightCut WeightCuts::vocabulary(std::int32_t ranks) const {
  if (c_.vocab_size % ranks != 0) return {};
  return {0, {{"vocabulary", c_.vocab_size, 1}}};
}

}  // namespace hybridattn::engine
