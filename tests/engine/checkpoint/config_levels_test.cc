// Nested configs: what stands at the top beside text_config agrees with it, or is an error.
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/checkpoint/config_test_support.h"

namespace hybridattn::engine {
namespace {

json text_model() {
  json text = moe("qwen3_5_moe_text");
  text.update({{"head_dim", 256},
               {"rms_norm_eps", 1e-6},
               {"hidden_act", "silu"},
               {"output_gate_type", "swish"},
               {"max_position_embeddings", 32768},
               {"full_attention_interval", 4},
               {"layer_types", json::array({"linear_attention", "full_attention"})},
               {"num_hidden_layers", 2},
               {"linear_num_key_heads", 16},
               {"linear_num_value_heads", 32},
               {"linear_key_head_dim", 128},
               {"linear_value_head_dim", 128},
               {"linear_conv_kernel_dim", 4},
               {"partial_rotary_factor", 0.25},
               {"rope_theta", 1e7},
               {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000000}}}});
  return text;
}

TEST(ConfigLevels, TheSameAtBothIsFine) {
  const json text = text_model();
  json config = nested(text);
  for (const auto& [key, value] : text.items()) {
    if (key != "model_type") config[key] = value;
  }
  config["rope_theta"] = 10000000;
  EXPECT_EQ(good(parse(config)).rope_theta, 1e7);
  EXPECT_EQ(good(parse(config)).hidden_size, 128);
}

TEST(ConfigLevels, EachFieldThatDisagrees) {
  for (const char* key : {"hidden_size",
                          "vocab_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "num_key_value_heads",
                          "head_dim",
                          "max_position_embeddings",
                          "rms_norm_eps",
                          "full_attention_interval",
                          "linear_num_key_heads",
                          "linear_num_value_heads",
                          "linear_key_head_dim",
                          "linear_value_head_dim",
                          "linear_conv_kernel_dim",
                          "partial_rotary_factor",
                          "rope_theta",
                          "num_experts",
                          "num_experts_per_tok",
                          "moe_intermediate_size",
                          "shared_expert_intermediate_size"}) {
    expect_wrong(with(nested(text_model()), key, 77), {concat("config.json: ", key, ": found 77"),
                                                       "text_config", text_model()[key].dump()});
  }
  expect_wrong(with(nested(text_model()), "output_gate_type", "sigmoid"),
               {"config.json: output_gate_type: found \"sigmoid\"", "\"swish\"", "text_config"});
  expect_wrong(with(nested(text_model()), "hidden_act", "gelu"), {"\"gelu\"", "\"silu\""});
}

TEST(ConfigLevels, ListsAndSectionsThatDisagree) {
  json types = text_model()["layer_types"];
  types[1] = "linear_attention";
  expect_wrong(with(nested(text_model()), "layer_types", types),
               {"layer_types[1]: found \"linear_attention\"", "\"full_attention\""});
  types.push_back("full_attention");
  expect_wrong(with(nested(text_model()), "layer_types", types), {"array of 3", "array of 2"});
  json rope = text_model()["rope_parameters"];
  rope["rope_theta"] = 5e5;
  expect_wrong(with(nested(text_model()), "rope_parameters", rope),
               {"rope_parameters.rope_theta: found 500000", "10000000"});
  rope = {{"rope_theta", 1e7}, {"rope_type", "default"}, {"factor", 2}};
  expect_wrong(with(nested(text_model()), "rope_parameters", rope),
               {"rope_parameters.factor: found 2", "null"});
  rope.erase("factor");
  rope.erase("rope_type");
  expect_wrong(with(nested(text_model()), "rope_parameters", rope),
               {"rope_parameters.rope_type: found null", "\"default\""});
  rope = {{"a\nb", 1}};
  expect_wrong(with(nested(text_model()), "rope_parameters", rope), {"a\\x0ab"});
}

TEST(ConfigLevels, OnlyAtTheTop) {
  const std::vector<std::pair<const char*, json>> fields = {
      {"output_gate_type", "sigmoid"},
      {"hidden_act", "silu"},
      {"head_dim", 128},
      {"rms_norm_eps", 1e-5},
      {"layer_types", json::array()},
      {"full_attention_interval", 2},
      {"linear_conv_kernel_dim", 3},
      {"rope_parameters", {{"rope_theta", 1e6}}},
      {"rope_scaling", {{"type", "yarn"}}},
      {"rope_theta", 1e6},
      {"partial_rotary_factor", 0.5},
      {"norm_topk_prob", true},
      {"max_position_embeddings", 64}};
  for (const auto& [key, value] : fields) {
    expect_wrong(with(nested(dense()), key, value),
                 {concat("config.json: ", key, ": found"), "inside text_config"});
    EXPECT_TRUE(parse(with(nested(dense()), key, nullptr)).ok());
  }
  // A required field: the one message that says where it was looked for.
  json config = nested(without(dense(), "hidden_size"));
  expect_wrong(with(config, "hidden_size", 128), {"hidden_size: found 128", "inside text_config"});
}

TEST(ConfigLevels, FieldsOfTheWrapper) {
  json config = nested(dense());
  config.update(
      {{"architectures", {"Qwen3_5ForConditionalGeneration"}},
       {"image_token_id", 1},
       {"video_token_id", 2},
       {"vision_start_token_id", 3},
       {"bos_token_id", 4},
       {"pad_token_id", 4},
       {"eos_token_id", 5},
       {"dtype", "bfloat16"},
       {"tie_word_embeddings", true},
       {"initializer_range", 0.02},
       {"transformers_version", "5.24.0"},
       {"vision_config", {{"hidden_size", 7}, {"rope_parameters", {{"rope_type", "axial"}}}}}});
  config["text_config"]["tie_word_embeddings"] = false;
  EXPECT_TRUE(good(parse(config)).tie_word_embeddings);
}

}  // namespace
}  // namespace hybridattn::engine
