// Configs: each field missing, wrong or in contradiction, in turn; and the values of known models.
#include "engine/checkpoint/model_config.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/engine/checkpoint/config_test_support.h"

namespace hybridattn::engine {
namespace {

std::string layer_string(const ModelConfig& config) {
  std::string out;
  for (const LayerKind kind : config.layers) out += kind == LayerKind::kFullAttention ? 'F' : 'l';
  return out;
}

std::string moe_string(const ModelConfig& config) {
  std::string out;
  for (const bool sparse : config.moe_layers) out += sparse ? 'm' : 'd';
  return out;
}

TEST(ModelConfig, Defaults) {
  const ModelConfig config = good(parse(dense()));
  EXPECT_EQ(config.family, ModelFamily::kQwen35);
  EXPECT_EQ(config.model_type, "qwen3_5_text");
  EXPECT_EQ(layer_string(config), "lllFlllF");
  EXPECT_EQ(moe_string(config), "dddddddd");
  EXPECT_EQ(config.num_layers(), 8);
  EXPECT_EQ(config.count(LayerKind::kFullAttention), 2);
  EXPECT_EQ(config.count(LayerKind::kLinearAttention), 6);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.rotary_dim, 64);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.linear_num_key_heads, 16);
  EXPECT_EQ(config.linear_num_value_heads, 32);
  EXPECT_EQ(config.linear_key_head_dim, 128);
  EXPECT_EQ(config.linear_value_head_dim, 128);
  EXPECT_EQ(config.linear_conv_kernel_dim, 4);
  EXPECT_EQ(config.rms_norm_eps, 1e-6f);
  EXPECT_EQ(config.max_position_embeddings, 32768);
  EXPECT_EQ(config.dtype, DType::kF32);
  EXPECT_EQ(config.output_gate, GateKind::kSilu);
  EXPECT_EQ(config.moe.num_experts, 0);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.tie_stated);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfig, EachRequiredFieldMissing) {
  for (const char* key : {"model_type", "hidden_size", "vocab_size", "intermediate_size",
                          "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}) {
    expect_wrong(without(dense(), key), {"config.json: ", key, "found nothing", "wanted"});
    expect_wrong(with(dense(), key, nullptr), {"config.json: ", key, "found null", "wanted"});
  }
  for (const char* key : {"num_experts", "num_experts_per_tok", "moe_intermediate_size",
                          "shared_expert_intermediate_size"}) {
    for (const char* type : {"qwen3_5_moe_text", "qwen3_next"}) {
      expect_wrong(without(moe(type), key), {"config.json: ", key, "found nothing"});
    }
  }
}

TEST(ModelConfig, IntegersOfAnotherFormOrSize) {
  for (const char* key :
       {"hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "linear_num_key_heads",
        "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
        "linear_conv_kernel_dim", "full_attention_interval", "max_position_embeddings",
        "decoder_sparse_step"}) {
    for (const json& value :
         {json(4.0), json("4"), json(true), json::array({4}), json::object(), json(0), json(-4),
          json(std::int64_t{1} << 40), json(INT64_MIN), json(UINT64_MAX), json(1e300)}) {
      expect_wrong(with(dense(), key, value), {"config.json: ", key, "found", "an integer, 1 to "});
    }
  }
  for (const char* key : {"num_experts", "num_experts_per_tok", "moe_intermediate_size"}) {
    for (const json& value :
         {json(2.0), json("2"), json(false), json(0), json(-1), json(std::int64_t{1} << 32)}) {
      expect_wrong(with(moe("qwen3_5_moe_text"), key, value), {key, "an integer, 1 to "});
    }
  }
  expect_wrong(with(moe("qwen3_next"), "shared_expert_intermediate_size", -1), {"0 to"});
  expect_wrong(with(dense(), "hidden_size", 1 << 21), {"found 2097152", "1 to 1048576"});
  expect_wrong(with(dense(), "num_hidden_layers", 100000), {"found 100000", "1 to 4096"});
}

TEST(ModelConfig, ModelTypes) {
  EXPECT_EQ(good(parse(nested(dense()))).family, ModelFamily::kQwen35);
  EXPECT_EQ(good(parse(nested(dense()))).model_type, "qwen3_5");
  EXPECT_EQ(good(parse(with(dense(), "model_type", "qwen3_5"))).family, ModelFamily::kQwen35);
  EXPECT_EQ(good(parse(moe("qwen3_5_moe_text"))).family, ModelFamily::kQwen35Moe);
  EXPECT_EQ(good(parse(nested(moe("qwen3_5_moe_text")))).family, ModelFamily::kQwen35Moe);
  EXPECT_EQ(good(parse(moe("qwen3_next"))).family, ModelFamily::kQwen3Next);
  for (const char* type : {"qwen4_exp", "qwen3", "", "QWEN3_5", "olmo_hybrid"}) {
    expect_unsupported(with(dense(), "model_type", type),
                       {"config.json: model_type", concat("\"", type, "\""),
                        "qwen3_5, qwen3_5_text, qwen3_5_moe, qwen3_5_moe_text, qwen3_next"});
  }
  expect_wrong(with(dense(), "model_type", 5), {"model_type", "found 5"});
}

TEST(ModelConfig, TextConfig) {
  expect_wrong(with(moe("qwen3_next"), "text_config", dense()), {"text_config", "none with"});
  expect_wrong(with(dense(), "text_config", dense()), {"text_config", "none with"});
  expect_wrong(with(nested(dense()), "text_config", 1), {"text_config", "found 1", "an object"});
  json other = nested(dense());
  other["text_config"]["model_type"] = "qwen3_5_moe_text";
  expect_wrong(
      other, {"config.json: text_config: model_type", "\"qwen3_5_moe_text\"", "\"qwen3_5_text\""});
  json bad = nested(dense());
  bad["text_config"]["vocab_size"] = 0;
  expect_wrong(bad, {"config.json: text_config: vocab_size", "found 0"});
  // Fields of the vision part are nobody's business here.
  json vision = nested(dense());
  vision["vision_config"] = {{"hidden_act", "gelu"}, {"hidden_size", "x"}};
  EXPECT_TRUE(parse(vision).ok());
}

TEST(ModelConfig, NotAConfig) {
  for (const std::string_view text : {"", "{", "{\"a\":1,}", "nonsense", "{\"a\":NaN}"}) {
    const auto parsed = ModelConfig::parse(text, "");
    ASSERT_FALSE(parsed.ok());
    expect_error(parsed.status(), StatusCode::kDataLoss, {"config.json: ", "JSON"});
  }
  for (const std::string_view text : {"[]", "null", "3", "\"x\""}) {
    const auto parsed = ModelConfig::parse(text, "");
    expect_error(parsed.status(), StatusCode::kDataLoss, {"config.json: ", "wanted an object"});
  }
  const auto twice = ModelConfig::parse(R"({"hidden_size":1,"hidden_size":2})", "");
  expect_error(twice.status(), StatusCode::kDataLoss, {"\"hidden_size\"", "twice"});
}

TEST(ModelConfig, MalformedJson) {
  const std::vector<std::pair<std::string, int>> cases = {{"", 0},
                                                          {"{", 1},
                                                          {"nonsense", 1},
                                                          {"{\"a\":1,}", 7},
                                                          {"{\"a\":NaN}", 5},
                                                          {"{} x", 3},
                                                          {"{\"a\":\"\xff\"}", 6}};
  for (const auto& [text, byte] : cases) {
    const std::string message = concat("config.json: malformed JSON at byte ", byte);
    EXPECT_EQ(ModelConfig::parse(text, "").status().message(), message) << text;
    if (text.empty()) continue;
    EXPECT_EQ(parse(dense(), text).status().message(), "generation_" + message) << text;
  }
}

TEST(ModelConfig, CutAtEveryByte) {
  const std::string text = moe("qwen3_next").dump();
  for (std::size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(ModelConfig::parse(text.substr(0, length), "").ok()) << length;
  }
}

TEST(ModelConfig, LayerTypes) {
  json types = json::array();
  for (const char c : std::string("FllFllll")) {
    types.push_back(c == 'F' ? "full_attention" : "linear_attention");
  }
  json config = with(with(dense(), "layer_types", types), "full_attention_interval", 2);
  EXPECT_EQ(layer_string(good(parse(config))), "FllFllll");
  EXPECT_EQ(layer_string(good(parse(with(config, "layer_types", nullptr)))), "lFlFlFlF");
  EXPECT_EQ(layer_string(good(parse(with(dense(), "full_attention_interval", 1)))), "FFFFFFFF");
  EXPECT_EQ(layer_string(good(parse(with(dense(), "full_attention_interval", 9)))), "llllllll");
  types.push_back("full_attention");
  expect_wrong(with(dense(), "layer_types", types), {"layer_types", "array of 9", "= 8"});
  expect_wrong(with(dense(), "layer_types", "full_attention"), {"layer_types", "an array"});
  types.erase(8);
  types[3] = "sliding_attention";
  expect_unsupported(with(dense(), "layer_types", types),
                     {"layer_types[3]", "\"sliding_attention\""});
  types[3] = 1;
  expect_wrong(with(dense(), "layer_types", types), {"layer_types[3]", "found 1"});
}

TEST(ModelConfig, OutputGate) {
  for (const char* gate : {"silu", "swish"}) {
    EXPECT_EQ(good(parse(with(dense(), "output_gate_type", gate))).output_gate, GateKind::kSilu);
  }
  EXPECT_EQ(good(parse(with(dense(), "output_gate_type", "sigmoid"))).output_gate,
            GateKind::kSigmoid);
  EXPECT_EQ(good(parse(with(dense(), "output_gate_type", nullptr))).output_gate, GateKind::kSilu);
}

TEST(ModelConfig, HeadsThatDoNotDivide) {
  expect_wrong(with(dense(), "num_key_value_heads", 3), {"num_attention_heads", "found 4", "= 3"});
  expect_wrong(with(dense(), "num_key_value_heads", 8), {"num_attention_heads", "found 4", "= 8"});
  expect_wrong(with(dense(), "linear_num_key_heads", 5),
               {"linear_num_value_heads", "found nothing", "= 5"});
  expect_wrong(with(dense(), "linear_num_value_heads", 24),
               {"linear_num_value_heads", "found 24", "= 16"});
}

TEST(ModelConfig, LinearDims) {
  for (const char* key : {"linear_key_head_dim", "linear_value_head_dim"}) {
    for (const int dim : {1, 8, 24, 120, 257, 272, 1024}) {
      expect_unsupported(with(dense(), key, dim), {key, concat("found ", dim), "16, 16 to 256"});
    }
    for (const int dim : {16, 48, 256}) EXPECT_TRUE(parse(with(dense(), key, dim)).ok());
  }
  for (const int taps : {1, 5, 8}) {
    expect_unsupported(with(dense(), "linear_conv_kernel_dim", taps),
                       {"linear_conv_kernel_dim", concat("found ", taps), "2 to 4"});
  }
  EXPECT_EQ(good(parse(with(dense(), "linear_conv_kernel_dim", 2))).linear_conv_kernel_dim, 2);
}

TEST(ModelConfig, Epsilon) {
  for (const json& eps : {json(0), json(-1e-6), json(1e-60), json(2), json(1e300), json("1e-6")}) {
    expect_wrong(with(dense(), "rms_norm_eps", eps), {"rms_norm_eps", "a number"});
  }
  const auto infinite = ModelConfig::parse(R"({"rms_norm_eps":1e999})", "");
  expect_error(infinite.status(), StatusCode::kDataLoss, {"config.json"});
  EXPECT_EQ(good(parse(with(dense(), "rms_norm_eps", 1e-5))).rms_norm_eps, 1e-5f);
}

TEST(ModelConfig, Dtype) {
  EXPECT_EQ(good(parse(with(dense(), "dtype", "bfloat16"))).dtype, DType::kBF16);
  EXPECT_EQ(good(parse(with(dense(), "torch_dtype", "float16"))).dtype, DType::kF16);
  EXPECT_EQ(good(parse(with(nested(dense()), "torch_dtype", "bfloat16"))).dtype, DType::kBF16);
  json both = with(nested(dense()), "dtype", "bfloat16");
  both["text_config"]["dtype"] = "float32";
  EXPECT_EQ(good(parse(both)).dtype, DType::kF32);
  for (const char* key : {"dtype", "torch_dtype"}) {
    expect_unsupported(with(dense(), key, "float8_e4m3fn"), {key, "float8_e4m3fn", "bfloat16"});
    expect_wrong(with(dense(), key, 16), {key, "a string"});
  }
}

TEST(ModelConfig, ExpertsAndTheirLayers) {
  json config = moe("qwen3_next");
  EXPECT_EQ(moe_string(good(parse(config))), "mmmmmmmm");
  EXPECT_EQ(good(parse(config)).intermediate_size, 0);
  config["intermediate_size"] = 256;
  config["decoder_sparse_step"] = 2;
  EXPECT_EQ(moe_string(good(parse(config))), "dmdmdmdm");
  config["mlp_only_layers"] = {1, 6};
  EXPECT_EQ(moe_string(good(parse(config))), "dddmdmdm");
  EXPECT_EQ(good(parse(config)).intermediate_size, 256);
  expect_wrong(without(config, "intermediate_size"), {"intermediate_size", "found nothing"});
  for (const json& entry : {json(8), json(-1), json("1"), json(1.0)}) {
    expect_wrong(with(config, "mlp_only_layers", json::array({1, entry})), {"mlp_only_layers[1]"});
  }
  config["num_experts"] = 0;
  EXPECT_EQ(moe_string(good(parse(config))), "dddddddd");
  EXPECT_EQ(good(parse(config)).moe.num_experts, 0);
  expect_wrong(with(moe("qwen3_5_moe_text"), "num_experts", 0), {"num_experts", "found 0"});
  expect_wrong(with(dense(), "num_experts", 8), {"num_experts", "found 8", "none with"});
  expect_unsupported(with(moe("qwen3_5_moe_text"), "decoder_sparse_step", 2),
                     {"decoder_sparse_step"});
  expect_unsupported(with(moe("qwen3_5_moe_text"), "mlp_only_layers", {0}), {"mlp_only_layers"});
}

TEST(ModelConfig, Routing) {
  const MoeConfig routing = good(parse(moe("qwen3_5_moe_text"))).moe;
  EXPECT_EQ(routing.num_experts, 8);
  EXPECT_EQ(routing.experts_per_token, 2);
  EXPECT_EQ(routing.expert_width, 32);
  EXPECT_EQ(routing.shared_expert_width, 48);
  EXPECT_TRUE(routing.norm_topk_prob);
  EXPECT_FALSE(good(parse(with(moe("qwen3_next"), "norm_topk_prob", false))).moe.norm_topk_prob);
  expect_unsupported(with(moe("qwen3_5_moe_text"), "norm_topk_prob", false), {"norm_topk_prob"});
  expect_wrong(with(moe("qwen3_next"), "num_experts_per_tok", 9),
               {"num_experts_per_tok", "found 9", "num_experts = 8"});
  EXPECT_TRUE(parse(with(moe("qwen3_next"), "shared_expert_intermediate_size", 0)).ok());
}

TEST(ModelConfig, TiedEmbeddings) {
  const ModelConfig tied = good(parse(with(dense(), "tie_word_embeddings", true)));
  EXPECT_TRUE(tied.tie_word_embeddings);
  EXPECT_TRUE(tied.tie_stated);
  json config = nested(with(dense(), "tie_word_embeddings", false));
  EXPECT_FALSE(good(parse(config)).tie_word_embeddings);
  EXPECT_TRUE(good(parse(config)).tie_stated);
  EXPECT_TRUE(good(parse(with(config, "tie_word_embeddings", true))).tie_word_embeddings);
  expect_wrong(with(dense(), "tie_word_embeddings", "yes"),
               {"tie_word_embeddings", "true or false"});
}

TEST(ModelConfig, EosIsAUnion) {
  using Ids = std::vector<std::int32_t>;
  json config = nested(with(dense(), "eos_token_id", 5));
  config["eos_token_id"] = {6, 5};
  EXPECT_EQ(good(parse(config, R"({"eos_token_id":[7,6]})")).eos_token_ids, (Ids{5, 6, 7}));
  EXPECT_EQ(good(parse(dense(), R"({"eos_token_id":3})")).eos_token_ids, (Ids{3}));
  EXPECT_EQ(
      good(parse(with(dense(), "eos_token_id", nullptr), R"({"eos_token_id":null})")).eos_token_ids,
      Ids{});
  for (const json& id :
       {json(512), json(-1), json("1"), json(1.0), json(true), json::array({1, nullptr})}) {
    expect_wrong(with(dense(), "eos_token_id", id), {"config.json: eos_token_id", "0 to 511"});
    const auto parsed = parse(dense(), json{{"eos_token_id", id}}.dump());
    expect_error(parsed.status(), StatusCode::kDataLoss,
                 {"generation_config.json: eos_token_id", "0 to 511"});
  }
  expect_error(parse(dense(), "[]").status(), StatusCode::kDataLoss, {"generation_config.json: "});
  expect_error(parse(dense(), "{").status(), StatusCode::kDataLoss, {"generation_config.json: "});
}

}  // namespace
}  // namespace hybridattn::engine
