// Fields that would change the arithmetic: refused where they are on, accepted where they are off.
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/checkpoint/config_test_support.h"

namespace hybridattn::engine {
namespace {

struct Case {
  const char* key;
  std::vector<json> on;
  std::vector<json> off;
};

std::vector<Case> cases() {
  const std::vector<json> factor_on = {json(2), json(0.5), json(0), json("1"), json(true)};
  const std::vector<json> factor_off = {nullptr, 1, 1.0};
  const std::vector<json> cap_on = {30.0, 50, "30"};
  const std::vector<json> cap_off = {nullptr, 0, 0.0, false};
  const std::vector<json> any_on = {256, 8.0, "x", true, json::object(), json::array({1})};
  const std::vector<json> any_off = {nullptr, false};
  return {{"allow_neg_eigval", {true}, {nullptr, false}},
          {"linear_allow_neg_eigval", {true}, {nullptr, false}},
          {"qkv_bias", {true}, {nullptr, false}},
          {"mlp_bias", {true}, {nullptr, false}},
          {"attention_bias", {true}, {nullptr, false}},
          {"use_sliding_window", {true}, {nullptr, false}},
          {"attn_output_gate", {false}, {nullptr, true}},
          {"use_qk_norm", {false}, {nullptr, true}},
          {"final_logit_softcapping", cap_on, cap_off},
          {"attn_logit_softcapping", cap_on, cap_off},
          {"first_k_dense_replace", {1}, {nullptr, 0}},
          {"scoring_func", {"sigmoid", 1, true}, {nullptr, "softmax"}},
          {"topk_method", {"noaux_tc", "group_limited_greedy", 1}, {nullptr, "greedy"}},
          {"routed_scaling_factor", factor_on, factor_off},
          {"n_group", factor_on, factor_off},
          {"topk_group", factor_on, factor_off},
          {"logit_scale", factor_on, factor_off},
          {"embedding_multiplier", factor_on, factor_off},
          {"residual_multiplier", factor_on, factor_off},
          {"attention_multiplier", factor_on, factor_off},
          {"clip_qkv", any_on, any_off},
          {"query_pre_attn_scalar", any_on, any_off},
          {"layer_scale", any_on, any_off},
          {"quantization", any_on, any_off},
          {"compression_config", any_on, any_off},
          {"quantization_config", any_on, any_off}};
}

TEST(ConfigRefusals, EachFieldAtEachLevel) {
  for (const Case& c : cases()) {
    for (const json& value : c.on) {
      expect_unsupported(with(dense(), c.key, value),
                         {concat("config.json: ", c.key, ": found"), "supported: "});
      expect_unsupported(nested(with(dense(), c.key, value)),
                         {concat("config.json: text_config: ", c.key, ": found"), "supported: "});
      expect_unsupported(with(nested(dense()), c.key, value),
                         {concat("config.json: ", c.key, ": found"), "supported: "});
    }
    for (const json& value : c.off) {
      SCOPED_TRACE(concat(c.key, " ", value.dump()));
      good(parse(with(dense(), c.key, value)));
      good(parse(nested(with(dense(), c.key, value))));
      good(parse(with(nested(dense()), c.key, value)));
    }
  }
}

TEST(ConfigRefusals, FieldsThatDoNotMatterHere) {
  json config = moe("qwen3_next");
  config.update({{"attention_dropout", 0.1},
                 {"output_router_logits", true},
                 {"router_aux_loss_coef", 0.001},
                 {"mlp_only_layers", json::array()},
                 {"decoder_sparse_step", 1},
                 {"initializer_range", 0.02},
                 {"use_cache", true},
                 {"mtp_num_hidden_layers", 1},
                 {"mtp_use_dedicated_embeddings", false},
                 {"max_window_layers", 28},
                 {"pad_token_id", nullptr}});
  good(parse(config));
}

TEST(ConfigRefusals, ChoicesAndBiases) {
  for (const char* act : {"gelu", "gelu_pytorch_tanh", "relu", ""}) {
    expect_unsupported(with(dense(), "hidden_act", act), {"hidden_act", "silu, swish"});
    expect_unsupported(with(dense(), "output_gate_type", act),
                       {"output_gate_type", "silu, swish, sigmoid"});
  }
  expect_wrong(with(dense(), "hidden_act", 1), {"hidden_act", "a string"});
  EXPECT_TRUE(parse(with(dense(), "hidden_act", "swish")).ok());
  expect_unsupported(with(dense(), "attention_bias", true), {"attention_bias", "found true"});
  expect_unsupported(with(dense(), "mlp_bias", true), {"mlp_bias", "found true"});
  expect_unsupported(with(dense(), "attn_output_gate", false), {"attn_output_gate", "found false"});
  expect_wrong(with(dense(), "attention_bias", 0), {"attention_bias", "true or false"});
  EXPECT_TRUE(parse(with(dense(), "attention_bias", nullptr)).ok());
  expect_unsupported(with(dense(), "mamba_ssm_dtype", "float16"), {"mamba_ssm_dtype", "float32"});
  EXPECT_TRUE(parse(with(dense(), "mamba_ssm_dtype", "bfloat16")).ok());
}

TEST(ConfigRefusals, SlidingWindow) {
  expect_unsupported(with(dense(), "use_sliding_window", true),
                     {"use_sliding_window", "found true"});
  expect_unsupported(with(dense(), "sliding_window", 4096), {"sliding_window", "found 4096"});
  expect_unsupported(with(nested(dense()), "sliding_window", 4096), {"sliding_window"});
  EXPECT_TRUE(parse(with(dense(), "sliding_window", nullptr)).ok());
  EXPECT_TRUE(parse(with(dense(), "sliding_window", false)).ok());
  EXPECT_TRUE(parse(with(with(dense(), "sliding_window", 4096), "use_sliding_window", false)).ok());
}

TEST(ConfigRefusals, Quantization) {
  const json fp8 = {{"quant_method", "fp8"}, {"bits", 8}};
  expect_unsupported(with(dense(), "quantization_config", fp8), {"quantization_config", "\"fp8\""});
  expect_unsupported(with(nested(dense()), "quantization_config", fp8),
                     {"config.json: q", "\"fp8\""});
  json inner = nested(dense());
  inner["text_config"]["quantization_config"] = fp8;
  expect_unsupported(inner, {"text_config: quantization_config", "\"fp8\""});
  expect_unsupported(with(dense(), "quantization_config", json::object()),
                     {"found quant_method null"});
  EXPECT_TRUE(parse(with(dense(), "quantization_config", nullptr)).ok());
}

}  // namespace
}  // namespace hybridattn::engine
