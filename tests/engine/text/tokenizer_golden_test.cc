// Ids and text of Hugging Face `tokenizers`, as tests/data/make_tokenizer.py recorded them.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/text/detokenizer.h"
#include "engine/text/quote.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/text_test_support.h"

namespace hybridattn::engine {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr int kMaxReports = 20;  // one defect breaks hundreds of strings

/// Encodes `text` of each row that has `key` and compares; returns the number of rows compared.
std::size_t compare_ids(const Tokenizer& tokenizer, const char* key) {
  std::size_t compared = 0;
  int failures = 0;
  for (const nlohmann::json& row : read_json_lines("tests/data/tokenizer_cases.jsonl")) {
    if (!row.contains(key)) continue;
    ++compared;
    const auto text = row["text"].get<std::string>();
    const Result<Ids> ids = tokenizer.encode(text);
    if (ids.ok() && *ids == row[key].get<Ids>()) continue;
    if (++failures <= kMaxReports) {
      ADD_FAILURE() << in_quotes(text) << ": found "
                    << (ids.ok() ? nlohmann::json(*ids).dump() : ids.status().message())
                    << ", wanted " << row[key].dump();
    }
  }
  EXPECT_EQ(failures, 0) << "of " << compared;
  return compared;
}

TEST(TokenizerGolden, IdsOfQwen35Pattern) {
  EXPECT_EQ(compare_ids(qwen35_tokenizer(), "ids"), 10000u);
}

TEST(TokenizerGolden, IdsOfTinyModel) {
  const auto tiny = Tokenizer::load(source_path("assets/tiny-model/tokenizer.json"));
  ASSERT_TRUE(tiny.ok()) << tiny.status().message();
  EXPECT_EQ(tiny->vocab_size(), 4096);
  EXPECT_EQ(compare_ids(*tiny, "tiny"), 500u);
}

TEST(TokenizerGolden, DecodedText) {
  std::size_t compared = 0;
  for (const nlohmann::json& row : read_json_lines("tests/data/tokenizer_decode_cases.jsonl")) {
    const auto ids = row["ids"].get<Ids>();
    for (const bool skip : {false, true}) {
      const auto wanted = row[skip ? "text_skip" : "text"].get<std::string>();
      const Result<std::string> text = qwen35_tokenizer().decode(ids, skip);
      ASSERT_TRUE(text.ok()) << text.status().message();
      EXPECT_EQ(*text, wanted) << row["ids"].dump();
      StreamingDetokenizer stream(qwen35_tokenizer(), skip);
      std::string joined;
      for (const std::int32_t id : ids) joined += stream.push(id);
      EXPECT_EQ(joined + stream.finish(), wanted) << row["ids"].dump();
    }
    ++compared;
  }
  EXPECT_EQ(compared, 600u);
}

TEST(TokenizerGolden, VocabularyOfQwen35Pattern) {
  const Tokenizer& tokenizer = qwen35_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 5020);
  const auto start = tokenizer.token_to_id("<|im_start|>");
  ASSERT_TRUE(start.has_value());
  EXPECT_TRUE(tokenizer.is_special(*start));
  EXPECT_FALSE(tokenizer.is_special(*tokenizer.token_to_id("<think>")));
  EXPECT_FALSE(tokenizer.is_special(0));
}

}  // namespace
}  // namespace hybridattn::engine
