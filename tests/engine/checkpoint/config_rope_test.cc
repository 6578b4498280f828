// Rope settings in all their places: one value, or a contradiction that names both.
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/checkpoint/config_test_support.h"

namespace hybridattn::engine {
namespace {

/// A number in each of the three places that one object has.
json three(const std::string& key, json parameters, json scaling, json flat) {
  json config = dense();
  config["rope_parameters"] = {{"rope_type", "default"}, {key, std::move(parameters)}};
  config["rope_scaling"] = {{"type", "default"}, {key, std::move(scaling)}};
  config[key] = std::move(flat);
  return config;
}

TEST(ConfigRope, AnyOnePlace) {
  json old = dense();
  old.update({{"rope_theta", 5e5}, {"rope_scaling", nullptr}, {"partial_rotary_factor", 0.5}});
  EXPECT_EQ(good(parse(old)).rope_theta, 5e5);
  EXPECT_EQ(good(parse(old)).rotary_dim, 128);
  EXPECT_EQ(good(parse(with(old, "rope_parameters", json::object()))).rope_theta, 5e5);
  EXPECT_EQ(good(parse(with(dense(), "rope_scaling", {{"type", "default"}}))).rope_theta, 1e4);
  EXPECT_EQ(good(parse(three("rope_theta", 7e4, nullptr, nullptr))).rope_theta, 7e4);
  EXPECT_EQ(good(parse(three("rope_theta", nullptr, 7e4, nullptr))).rope_theta, 7e4);
  EXPECT_EQ(good(parse(three("rope_theta", nullptr, nullptr, 7e4))).rope_theta, 7e4);
  EXPECT_EQ(good(parse(nested(with(dense(), "rope_theta", 4e4)))).rope_theta, 4e4);
}

TEST(ConfigRope, PlacesThatAgree) {
  EXPECT_EQ(good(parse(three("rope_theta", 70000, 7e4, 70000.0))).rope_theta, 7e4);
  EXPECT_EQ(good(parse(three("partial_rotary_factor", 1, 1.0, nullptr))).rotary_dim, 256);
}

TEST(ConfigRope, PlacesThatDisagree) {
  for (const char* key : {"rope_theta", "partial_rotary_factor"}) {
    expect_wrong(three(key, 0.5, nullptr, 0.25),
                 {concat("config.json: ", key, ": found 0.25"), "0.5 of config.json: rope_param"});
    expect_wrong(three(key, nullptr, 0.5, 0.25), {concat("config.json: ", key, ": found 0.25"),
                                                  "0.5 of config.json: rope_scaling"});
    expect_wrong(three(key, 0.5, 0.25, nullptr),
                 {concat("rope_scaling: ", key, ": found 0.25"), "0.5 of config.json: rope_param"});
    expect_wrong(three(key, 0.5, 0.5, "0.5"), {key, "found \"0.5\"", "a number"});
  }
  expect_wrong(nested(three("rope_theta", 1e7, nullptr, 1e4)),
               {"text_config: rope_theta: found 10000", "of config.json: text_config: rope_param"});
}

TEST(ConfigRope, KeysThatWouldScale) {
  for (const std::string section : {"rope_parameters", "rope_scaling"}) {
    const auto parse_with = [&](const std::string& key, const json& value) {
      return with(dense(), section, {{"rope_type", "default"}, {key, value}});
    };
    for (const char* key : {"factor", "attention_factor"}) {
      expect_unsupported(parse_with(key, 4.0), {section, key, "found 4", "1"});
      expect_unsupported(parse_with(key, "1"), {section, key, "found \"1\""});
      for (const json& off : {json(1), json(1.0), json(nullptr)}) {
        EXPECT_TRUE(parse(parse_with(key, off)).ok()) << key;
      }
    }
    for (const char* key : {"mscale", "mscale_all_dim", "beta_fast", "beta_slow", "long_factor",
                            "original_max_position_embeddings", "low_freq_factor", "new_key"}) {
      expect_unsupported(parse_with(key, 32), {section, key, "found 32", "null"});
      EXPECT_TRUE(parse(parse_with(key, nullptr)).ok()) << key;
    }
    // Line breaks in a key stay out of the message.
    expect_unsupported(parse_with("a\nb", 1), {section, "a\\x0ab"});
    // Text has one position a token, so these choose between equal angles.
    EXPECT_TRUE(parse(parse_with("mrope_section", {11, 11, 10})).ok());
    EXPECT_TRUE(parse(parse_with("mrope_interleaved", true)).ok());
  }
}

TEST(ConfigRope, TypesThatAreRefused) {
  for (const char* section : {"rope_parameters", "rope_scaling"}) {
    for (const char* key : {"rope_type", "type"}) {
      for (const char* type : {"yarn", "linear", "dynamic", "llama3", "mrope"}) {
        expect_unsupported(with(dense(), section, {{key, type}}),
                           {section, key, concat("\"", type, "\""), "default"});
      }
    }
    expect_wrong(with(dense(), section, "yarn"), {section, "an object"});
    expect_unsupported(with(dense(), section, {{"full_attention", {{"rope_theta", 1e4}}}}),
                       {section, "full_attention", "nested"});
  }
  expect_unsupported(with(dense(), "rope_scaling", {{"factor", 4.0}}), {"rope_scaling", "factor"});
  expect_unsupported(with(dense(), "rope_scaling", {{"rope_theta", 1e4}}),
                     {"rope_scaling", "one of type default"});
  for (const json& theta : {json(0), json(-1.0), json("1e4"), json(false)}) {
    expect_wrong(with(dense(), "rope_theta", theta), {"rope_theta", "a number"});
  }
}

TEST(ConfigRope, RotaryDim) {
  constexpr const char* kFactor = "partial_rotary_factor";
  for (const json& factor : {json(0), json(-0.25), json(1.01), json("0.25"), json(1e300)}) {
    expect_wrong(with(dense(), kFactor, factor), {kFactor, "a number"});
  }
  const json narrow = with(dense(), "head_dim", 100);
  expect_wrong(narrow, {kFactor, "head_dim = 100", "not 25"});
  expect_wrong(with(dense(), kFactor, 0.001), {kFactor, "not 0"});
  EXPECT_EQ(good(parse(with(narrow, kFactor, 0.3))).rotary_dim, 30);
  expect_wrong(with(dense(), "head_dim", 513), {"head_dim", "found 513", "1 to 512"});
}

}  // namespace
}  // namespace hybridattn::engine
