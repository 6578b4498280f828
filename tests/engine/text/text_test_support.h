// What several tests of the text engine need: files of the repository and a small tokenizer to
// change.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/text/byte_alphabet.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace hybridattn::engine {

inline std::filesystem::path source_path(const std::string& relative) {
  return std::filesystem::path(HYBRIDATTN_SOURCE_DIR) / relative;
}

inline std::vector<nlohmann::json> read_json_lines(const std::string& relative) {
  std::ifstream file(source_path(relative));
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

inline const Tokenizer& qwen35_tokenizer() {
  static const Result<Tokenizer> loaded =
      Tokenizer::load(source_path("tests/data/tokenizer_qwen35/tokenizer.json"));
  if (!loaded.ok()) throw std::runtime_error(loaded.status().message());
  return *loaded;
}

inline std::string alphabet(std::string_view bytes) {
  std::string token;
  append_alphabet(bytes, token);
  return token;
}

/// A legal tokenizer.json: id b is byte b, then "ab" = 256, "abc" = 257, " a" = 258, and the added
/// tokens <s> = 259 (special) and <t> = 260.
inline nlohmann::json small_tokenizer_json() {
  using nlohmann::json;
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocab[alphabet(std::string(1, static_cast<char>(byte)))] = byte;
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  vocab["\u0120a"] = 258;
  const auto added = [](int id, const char* content, bool special) {
    return json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", {added(259, "<s>", true), added(260, "<t>", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", vocab},
        {"merges", json::parse(R"([["a", "b"], ["ab", "c"], ["\u0120", "a"]])")}}}};
}

/// Valid UTF-8 of `count` characters from everywhere, with many combining marks and jamo.
inline std::string random_text(std::mt19937& rng, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    constexpr char32_t kRanges[][2] = {{0x20, 0x7E},     {0, 0x24F},        {0x300, 0x345},
                                       {0x1100, 0x11FF}, {0xAC00, 0xD7A3},  {0x590, 0x1FFF},
                                       {0x2000, 0xD7FF}, {0xE000, 0x10FFFF}};
    const auto& range = kRanges[rng() % std::size(kRanges)];
    append_utf8(range[0] + static_cast<char32_t>(rng()) % (range[1] - range[0] + 1), text);
  }
  return text;
}

}  // namespace hybridattn::engine
