// Configs for tests: the smallest of each family, changed field by field, and what must become of
// them.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/model_config.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"

namespace hybridattn::engine {

using nlohmann::json;
using Parts = std::initializer_list<std::string_view>;

/// The fewest fields that a dense model needs.
inline json dense() {
  return {{"model_type", "qwen3_5_text"}, {"hidden_size", 128},     {"vocab_size", 512},
          {"intermediate_size", 256},     {"num_hidden_layers", 8}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}};
}

inline json moe(const std::string& model_type) {
  json config = dense();
  config.erase("intermediate_size");
  config.update({{"model_type", model_type},
                 {"num_experts", 8},
                 {"num_experts_per_tok", 2},
                 {"moe_intermediate_size", 32},
                 {"shared_expert_intermediate_size", 48}});
  return config;
}

inline json nested(json text) {
  const std::string type = text["model_type"];
  return {{"model_type", type.substr(0, type.size() - 5)}, {"text_config", std::move(text)}};
}

inline json with(json config, const std::string& key, json value) {
  config[key] = std::move(value);
  return config;
}

inline json without(json config, const std::string& key) {
  config.erase(key);
  return config;
}

inline Result<ModelConfig> parse(const json& config, const std::string& generation = "") {
  return ModelConfig::parse(config.dump(), generation);
}

/// The config, or a failed test and an empty one.
inline ModelConfig good(const Result<ModelConfig>& result) {
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : ModelConfig();
}

inline void expect_bad(const json& config, StatusCode code, Parts parts) {
  SCOPED_TRACE(config.dump());
  const auto parsed = parse(config);
  ASSERT_FALSE(parsed.ok());
  expect_error(parsed.status(), code, parts);
}

inline void expect_wrong(const json& config, Parts parts) {
  expect_bad(config, StatusCode::kDataLoss, parts);
}

inline void expect_unsupported(const json& config, Parts parts) {
  expect_bad(config, StatusCode::kUnsupported, parts);
}

}  // namespace hybridattn::engine
