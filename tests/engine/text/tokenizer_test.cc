// Encoding rules by example, and files that must be refused.
#include "engine/text/tokenizer.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/text/quote.h"
#include "engine/text/unicode.h"
#include "tests/engine/text/text_test_support.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

Tokenizer parse(const json& file) {
  Result<Tokenizer> made = Tokenizer::parse(file.dump());
  if (!made.ok()) throw std::runtime_error(made.status().message());
  return std::move(made).value();
}

json added(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", false}};
}

/// A small tokenizer with one more added token, id 261, with the given flags on.
Tokenizer with_token(const std::string& content, const std::vector<std::string>& flags) {
  json file = small_tokenizer_json();
  json token = added(261, content);
  for (const std::string& flag : flags) token[flag] = true;
  file["added_tokens"].push_back(token);
  return parse(file);
}

Ids encode(const Tokenizer& tokenizer, std::string_view text) {
  const Result<Ids> ids = tokenizer.encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? *ids : Ids{};
}

TEST(Tokenizer, EncodesBytesMergesAndAddedTokens) {
  const Tokenizer tokenizer = parse(small_tokenizer_json());
  EXPECT_EQ(encode(tokenizer, ""), Ids{});
  EXPECT_EQ(encode(tokenizer, "abcab a"), (Ids{257, 256, 258}));
  EXPECT_EQ(encode(tokenizer, "a<s>b<t>"), (Ids{'a', 259, 'b', 260}));
  EXPECT_EQ(encode(tokenizer, "<s"), (Ids{'<', 's'}));
  EXPECT_EQ(encode(tokenizer, "e\u0301"), (Ids{0xC3, 0xA9}));
  EXPECT_EQ(tokenizer.vocab_size(), 261);
  EXPECT_EQ(tokenizer.token_to_id("<s>"), 259);
  EXPECT_EQ(tokenizer.token_to_id("abc"), 257);
  EXPECT_EQ(tokenizer.token_to_id("abd"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(259));
  EXPECT_FALSE(tokenizer.is_special(260) || tokenizer.is_special(-1) || tokenizer.is_special(97));
}

TEST(Tokenizer, WithoutNormalizerTextStaysAsItIs) {
  json file = small_tokenizer_json();
  file["normalizer"] = nullptr;
  EXPECT_EQ(encode(parse(file), "e\u0301"), (Ids{'e', 0xCC, 0x81}));
}

TEST(Tokenizer, StripFlagsTakeWhiteSpace) {
  const Ids plain = {'x', ' ', ' ', 261, ' ', 'x'};
  EXPECT_EQ(encode(with_token("<m>", {}), "x  <m> x"), plain);
  EXPECT_EQ(encode(with_token("<m>", {"lstrip"}), "x \u3000<m> x"), (Ids{'x', 261, ' ', 'x'}));
  EXPECT_EQ(encode(with_token("<m>", {"rstrip"}), "x <m>\n\u2003x"), (Ids{'x', ' ', 261, 'x'}));
  const Tokenizer both = with_token("<m>", {"lstrip", "rstrip"});
  EXPECT_EQ(encode(both, " <m>  <m> "), (Ids{261, 261}));
  EXPECT_EQ(encode(both, "\u200B<m>"), (Ids{0xE2, 0x80, 0x8B, 261}));
}

TEST(Tokenizer, TokensOfWhiteSpaceThatAnotherOneTook) {
  // What is left of the second and third is empty with lstrip, and the rest of the run without it.
  EXPECT_EQ(encode(with_token(" ", {"lstrip", "rstrip"}), "x   x"), (Ids{'x', 261, 'x'}));
  EXPECT_EQ(encode(with_token(" ", {"rstrip"}), "x   x"), (Ids{'x', 261, 261, 261, 'x'}));
}

TEST(Tokenizer, SingleWordLooksAtBothSides) {
  const Tokenizer tokenizer = with_token("mm", {"single_word"});
  EXPECT_EQ(encode(tokenizer, "mm"), (Ids{261}));
  EXPECT_EQ(encode(tokenizer, "-mm."), (Ids{'-', 261, '.'}));
  for (const std::string text : {"xmm", "mmx", "_mm", "mm9", "mm\u0301", "\u4E2Dmm", "mm\u200D"}) {
    const Ids ids = encode(tokenizer, text);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 261), 0) << text;
  }
  // The one that doesn't count still uses up its text.
  EXPECT_EQ(encode(tokenizer, "mmmm"), (Ids{'m', 'm', 'm', 'm'}));
}

TEST(Tokenizer, NormalizedTokensMatchNormalizedText) {
  const Tokenizer tokenizer = with_token("e\u0301e", {"normalized"});
  EXPECT_EQ(encode(tokenizer, "e\u0301e"), (Ids{261}));
  EXPECT_EQ(encode(tokenizer, "\u00E9e"), (Ids{261}));
  EXPECT_EQ(*tokenizer.decode(Ids{261}, false), "\uFFFDe");  // U+00E9 is of the byte alphabet
  const Tokenizer raw = with_token("e\u0301e", {});
  EXPECT_EQ(encode(raw, "\u00E9e"), (Ids{0xC3, 0xA9, 'e'}));
  EXPECT_EQ(encode(raw, "e\u0301e"), (Ids{261}));
}

TEST(Tokenizer, LongestTokenAtTheLeftmostPlace) {
  json file = small_tokenizer_json();
  file["added_tokens"] = {added(259, "<a"), added(260, "<ab>"), added(261, "b><"), added(60, "<")};
  const Tokenizer tokenizer = parse(file);
  EXPECT_EQ(encode(tokenizer, "<ab><"), (Ids{260, 60}));
  EXPECT_EQ(encode(tokenizer, "<ab<"), (Ids{259, 'b', 60}));
  EXPECT_EQ(encode(tokenizer, "b><ab>"), (Ids{261, 256, '>'}));
}

TEST(Tokenizer, InvalidUtf8NamesTheOffset) {
  const Tokenizer tokenizer = parse(small_tokenizer_json());
  for (const std::string bad : {"\xFF", "\xE4\xB8", "\xED\xA0\x80", "\xC0\xAF"}) {
    const Result<Ids> ids = tokenizer.encode("abc<s>" + bad);
    EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(ids.status().message().find("byte offset 6 "), std::string::npos)
        << ids.status().message();
  }
}

TEST(Tokenizer, DecodeRefusesNegativeIdsAndSkipsUnknownOnes) {
  const Tokenizer tokenizer = parse(small_tokenizer_json());
  EXPECT_EQ(*tokenizer.decode(Ids{'a', 4000, 259}, true), "a");
  const Result<std::string> text = tokenizer.decode(Ids{'a', -7}, false);
  EXPECT_EQ(text.status().code(), StatusCode::kOutOfRange);
  EXPECT_NE(text.status().message().find("ids[1]: found -7"), std::string::npos);
}

TEST(Tokenizer, RoundTripIsNfc) {
  std::mt19937 rng(23);
  const Tokenizer tokenizer = parse(small_tokenizer_json());
  for (int i = 0; i < 5000; ++i) {
    const std::string text = random_text(rng, 1 + i % 30);
    if (text.find("<s>") != std::string::npos || text.find("<t>") != std::string::npos) continue;
    ASSERT_EQ(*tokenizer.decode(encode(tokenizer, text), false), to_nfc(text)) << in_quotes(text);
  }
}

TEST(Tokenizer, LoneByteLevelSplitsByThePatternOfGpt2) {
  json file = small_tokenizer_json();
  file["model"]["vocab"]["12"] = 261;
  file["model"]["merges"].push_back({"1", "2"});
  file["pre_tokenizer"]["use_regex"] = true;
  EXPECT_EQ(encode(parse(file), "1212 ab a"), (Ids{261, 261, ' ', 256, 258}));
  file["pre_tokenizer"].erase("use_regex");  // true when missing
  // "x" and " ab" are pieces, so no merge reaches over the border.
  file["model"]["vocab"]["x\u0120"] = 262;
  file["model"]["merges"].push_back({"x", "\u0120"});
  EXPECT_EQ(encode(parse(file), "x ab"), (Ids{'x', ' ', 256}));
  file["pre_tokenizer"]["use_regex"] = false;
  EXPECT_EQ(encode(parse(file), "x ab"), (Ids{262, 256}));
}

TEST(Tokenizer, AcceptsTheOtherFormsOfAField) {
  json file = small_tokenizer_json();
  file["model"]["merges"] = {"#version: 0.2", "a b", "ab c", "\u0120 a"};
  file["model"]["unk_token"] = "";
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["end_of_word_suffix"] = "";
  file["model"]["dropout"] = 0.0;
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array({{{"type", "NFC"}}})}};
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", json::array({file["pre_tokenizer"]})}};
  const json single = json::array({{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}});
  const json parts =
      json::array({{{"type", "ByteLevel"}}, {{"type", "TemplateProcessing"}, {"single", single}}});
  file["post_processor"] = {{"type", "Sequence"}, {"processors", parts}};
  file["something_new"] = {1, 2, {{"deep", true}}};
  const Tokenizer tokenizer = parse(file);
  EXPECT_EQ(encode(tokenizer, "abc ae\u0301"), (Ids{257, 258, 0xC3, 0xA9}));
}

/// A change of a legal file, the code it must give and what its message must contain.
struct Refusal {
  const char* name;
  std::function<void(json&)> change;
  StatusCode code;
  const char* message;
};

constexpr StatusCode kBad = StatusCode::kDataLoss;
constexpr StatusCode kNo = StatusCode::kUnsupported;

const json kBos =
    json::parse(R"([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}])");

const std::vector<Refusal>& refusals() {
  static const std::vector<Refusal> kCases = {
      {"model type", [](json& f) { f["model"]["type"] = "WordPiece"; }, kNo,
       "model.type: found \"WordPiece\""},
      {"no model type", [](json& f) { f["model"].erase("type"); }, kNo, "model.type: found null"},
      {"no model", [](json& f) { f.erase("model"); }, kBad, "model: found null"},
      {"unigram",
       [](json& f) {
         f["model"] = {{"type", "Unigram"}, {"vocab", json::array()}};
       },
       kNo, "\"Unigram\""},
      {"no vocab", [](json& f) { f["model"].erase("vocab"); }, kBad, "model.vocab: found null"},
      {"vocab array", [](json& f) { f["model"]["vocab"] = json::array({1}); }, kBad,
       "model.vocab: found an array"},
      {"no merges", [](json& f) { f["model"].erase("merges"); }, kBad, "model.merges: found null"},
      {"dropout", [](json& f) { f["model"]["dropout"] = 0.1; }, kNo, "model.dropout: found 0.1"},
      {"byte fallback", [](json& f) { f["model"]["byte_fallback"] = true; }, kNo,
       "model.byte_fallback: found true"},
      {"prefix", [](json& f) { f["model"]["continuing_subword_prefix"] = "##"; }, kNo,
       "continuing_subword_prefix: found \"##\""},
      {"suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, kNo,
       "end_of_word_suffix: found \"</w>\""},
      {"ignore_merges", [](json& f) { f["model"]["ignore_merges"] = 1; }, kBad,
       "model.ignore_merges: found 1"},
      {"unk",
       [](json& f) {
         f["model"]["unk_token"] = "a";
         f["model"]["vocab"].erase("b");
         f["model"]["merges"] = json::array();
       },
       kNo, "no token for byte 98"},
      {"id text", [](json& f) { f["model"]["vocab"]["ab"] = "1"; }, kBad,
       "token \"ab\": wanted an integer"},
      {"id float", [](json& f) { f["model"]["vocab"]["ab"] = 1.5; }, kBad,
       "token \"ab\": wanted an integer"},
      {"id object", [](json& f) { f["model"]["vocab"]["ab"] = json::object(); }, kBad,
       "found an object in model.vocab"},
      {"id array", [](json& f) { f["model"]["vocab"]["ab"] = json::array(); }, kBad,
       "found an array in model.vocab"},
      {"id negative", [](json& f) { f["model"]["vocab"]["ab"] = -3; }, kBad, "found id -3"},
      {"id huge", [](json& f) { f["model"]["vocab"]["ab"] = 18446744073709551615u; }, kBad,
       "found id 9223372036854775807"},
      {"id twice", [](json& f) { f["model"]["vocab"]["ab"] = 97; }, kBad,
       "id 97: found two tokens"},
      {"merge unknown",
       [](json& f) {
         f["model"]["merges"][1] = {"a", "zz"};
       },
       kBad, "model.merges[1]: token \"zz\""},
      {"merge of three",
       [](json& f) {
         f["model"]["merges"][1] = {"a", "b", "c"};
       },
       kBad, "model.merges[1]: found 3"},
      {"merge of one", [](json& f) { f["model"]["merges"][1] = json::array({"a"}); }, kBad,
       "model.merges[1]: found 1 tokens"},
      {"merge line", [](json& f) { f["model"]["merges"][1] = "ab"; }, kBad,
       "model.merges[1]: found \"ab\""},
      {"merge spaces", [](json& f) { f["model"]["merges"][1] = "a b c"; }, kBad,
       "model.merges[1]: found \"a b c\""},
      {"merge number", [](json& f) { f["model"]["merges"][1] = 7; }, kBad,
       "model.merges[1]: wanted"},
      {"merge object", [](json& f) { f["model"]["merges"][1] = json::object(); }, kBad,
       "found an object in model"},
      {"merge nested",
       [](json& f) {
         f["model"]["merges"][1] = json::array({json::array({"a"}), "b"});
       },
       kBad, "found an array in"},
      {"version", [](json& f) { f["version"] = "2.0"; }, kNo, "version: found \"2.0\""},
      {"truncation",
       [](json& f) {
         f["truncation"] = {{"max_length", 3}};
       },
       kNo, "truncation: found an object"},
      {"padding", [](json& f) { f["padding"] = json::object(); }, kNo, "padding: found an object"},
      {"normalizer", [](json& f) { f["normalizer"]["type"] = "NFKC"; }, kNo,
       "normalizer: found type \"NFKC\""},
      {"normalizers",
       [](json& f) {
         f["normalizer"] = {{"type", "Sequence"},
                            {"normalizers", json::array({{{"type", "Lowercase"}}})}};
       },
       kNo, "\"Lowercase\""},
      {"no pre-tokenizer", [](json& f) { f["pre_tokenizer"] = nullptr; }, kNo,
       "pre_tokenizer: found null"},
      {"whitespace",
       [](json& f) {
         f["pre_tokenizer"] = {{"type", "Whitespace"}};
       },
       kNo, "pre_tokenizer: found type \"Whitespace\""},
      {"prefix space", [](json& f) { f["pre_tokenizer"]["add_prefix_space"] = true; }, kNo,
       "pre_tokenizer.add_prefix_space: found true"},
      {"decoder", [](json& f) { f["decoder"] = nullptr; }, kNo, "decoder: found null"},
      {"wordpiece decoder", [](json& f) { f["decoder"]["type"] = "WordPiece"; }, kNo,
       "decoder: found type \"WordPiece\""},
      {"bos",
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"}, {"single", kBos}};
       },
       kNo, "post_processor.single: found"},
      {"bert",
       [](json& f) {
         f["post_processor"] = {{"type", "BertProcessing"}};
       },
       kNo, "post_processor: found type \"BertProcessing\""},
      {"added object", [](json& f) { f["added_tokens"] = json::object(); }, kBad,
       "added_tokens: found an object"},
      {"added entry", [](json& f) { f["added_tokens"][1] = 3; }, kBad, "added_tokens[1]: found 3"},
      {"added no id", [](json& f) { f["added_tokens"][1].erase("id"); }, kBad,
       "added_tokens[1].id: found null"},
      {"added no flag", [](json& f) { f["added_tokens"][1].erase("lstrip"); }, kBad,
       "added_tokens[1].lstrip: found null"},
      {"added content", [](json& f) { f["added_tokens"][1]["content"] = 3; }, kBad,
       "added_tokens[1].content: found 3"},
      {"added empty", [](json& f) { f["added_tokens"][1]["content"] = ""; }, kBad,
       "found a content of 0 bytes"},
      {"added long", [](json& f) { f["added_tokens"][1]["content"] = std::string(5000, 'x'); },
       kBad, "found a content of 5000 bytes"},
      {"added negative", [](json& f) { f["added_tokens"][1]["id"] = -1; }, kBad, "found id -1"},
      {"added huge", [](json& f) { f["added_tokens"][1]["id"] = 4294967295u; }, kBad,
       "found id 4294967295"},
      {"added id twice", [](json& f) { f["added_tokens"][1]["id"] = 259; }, kBad,
       "is also that of \"<s>\""},
      {"added twice", [](json& f) { f["added_tokens"][1]["content"] = "<s>"; }, kBad,
       "content found twice"},
      {"added is other", [](json& f) { f["added_tokens"][1]["id"] = 97; }, kBad,
       "its id 97 is that of \"a\""},
      {"added other id", [](json& f) { f["added_tokens"][1]["content"] = "abc"; }, kBad,
       "found id 260; model.vocab has 257"},
      {"array on top", [](json& f) { f = json::array(); }, kBad, "top level: found an array"},
  };
  return kCases;
}

TEST(TokenizerFile, WhatItRefuses) {
  for (const Refusal& refusal : refusals()) {
    json file = small_tokenizer_json();
    refusal.change(file);
    const Result<Tokenizer> made = Tokenizer::parse(file.dump());
    ASSERT_FALSE(made.ok()) << refusal.name;
    const std::string& message = made.status().message();
    EXPECT_EQ(made.status().code(), refusal.code) << refusal.name << ": " << message;
    EXPECT_NE(message.find(refusal.message), std::string::npos) << refusal.name << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(TokenizerFile, SplitIsCheckedFieldByField) {
  const auto message_of = [](const char* key, json value) {
    json split = {{"type", "Split"},
                  {"pattern", {{"Regex", "a+"}}},
                  {"behavior", "Isolated"},
                  {"invert", false}};
    split[key] = std::move(value);
    json file = small_tokenizer_json();
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", {split, file["pre_tokenizer"]}}};
    const Result<Tokenizer> made = Tokenizer::parse(file.dump());
    return made.ok() ? std::string("ok") : made.status().message();
  };
  EXPECT_EQ(message_of("invert", false), "ok");
  EXPECT_NE(message_of("invert", true).find("[0].invert: found true"), std::string::npos);
  EXPECT_NE(message_of("behavior", "Removed").find("[0].behavior: found \"Removed\""),
            std::string::npos);
  EXPECT_NE(message_of("pattern", {{"String", "a"}}).find("[0].pattern: found an object"),
            std::string::npos);
  EXPECT_NE(message_of("pattern", {{"Regex", "("}}).find("PCRE2 refuses"), std::string::npos);
  EXPECT_NE(message_of("type", "Digits").find("[0]: found type \"Digits\""), std::string::npos);
}

TEST(TokenizerFile, DuplicateKeys) {
  std::string text = small_tokenizer_json().dump();
  text.replace(text.find("\"version\""), 9, "\"decoder\"");
  EXPECT_NE(Tokenizer::parse(text).status().message().find("key \"decoder\": found twice"),
            std::string::npos);
  text = small_tokenizer_json().dump();
  text.replace(text.find("\"abc\":257"), 9, "\"ab\":257");
  EXPECT_NE(Tokenizer::parse(text).status().message().find("token \"ab\": found twice"),
            std::string::npos);
}

TEST(TokenizerFile, EveryTruncationIsAnError) {
  const std::string text = small_tokenizer_json().dump();
  for (std::size_t size = 0; size < text.size(); size += 1 + size / 400) {
    const Result<Tokenizer> made = Tokenizer::parse(text.substr(0, size));
    ASSERT_EQ(made.status().code(), StatusCode::kDataLoss) << size;
    ASSERT_EQ(made.status().message().find('\n'), std::string::npos);
  }
  EXPECT_EQ(Tokenizer::parse(text + "x").status().code(), StatusCode::kDataLoss);
}

TEST(TokenizerFile, RandomDamageNeverCrashes) {
  const std::string text = small_tokenizer_json().dump();
  std::mt19937 rng(31);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text;
    for (std::size_t n = 1 + rng() % 3; n > 0; --n) {
      damaged[rng() % damaged.size()] = "{}[]\",:0-9an\xFF"[rng() % 14];
    }
    const Result<Tokenizer> made = Tokenizer::parse(damaged);
    if (made.ok()) static_cast<void>(made->encode("abc <s>").ok());
  }
}

TEST(TokenizerFile, DepthAndInvalidUtf8) {
  const std::string deep = "{\"x\":" + std::string(100000, '[');
  EXPECT_NE(Tokenizer::parse(deep).status().message().find("32 nested"), std::string::npos);
  EXPECT_EQ(Tokenizer::parse("{\"\xFF\":1}").status().code(), StatusCode::kDataLoss);
}

TEST(TokenizerFile, MissingByteIsFoundWhenItIsNeeded) {
  json file = small_tokenizer_json();
  file["model"]["vocab"].erase("z");
  const Tokenizer tokenizer = parse(file);
  EXPECT_EQ(encode(tokenizer, "ab"), Ids{256});
  const Result<Ids> ids = tokenizer.encode("abz");
  EXPECT_EQ(ids.status().code(), StatusCode::kNotFound);
  EXPECT_NE(ids.status().message().find("byte 122"), std::string::npos) << ids.status().message();
}

TEST(TokenizerFile, MissingFileAndFolder) {
  const Result<Tokenizer> none = Tokenizer::load(source_path("tests/data/no-such-file.json"));
  EXPECT_EQ(none.status().code(), StatusCode::kNotFound);
  EXPECT_NE(none.status().message().find("no-such-file.json: "), std::string::npos);
  EXPECT_EQ(Tokenizer::load(source_path("tests/data")).status().code(), StatusCode::kNotFound);
}

TEST(TokenizerFile, AQuarterMillionTokensAreNotQuadratic) {
  json file = small_tokenizer_json();
  json& vocab = file["model"]["vocab"];
  json& merges = file["model"]["merges"];
  for (int id = 261; id < 248000; ++id) {
    const std::string token = "t" + std::to_string(id);
    vocab[token] = id;
    if (id % 2 != 0) continue;
    vocab[std::to_string(id)] = id + 250000;
    merges.push_back({"t", std::to_string(id)});
  }
  const std::string text = file.dump();
  const Result<Tokenizer> made = Tokenizer::parse(text);
  ASSERT_TRUE(made.ok()) << made.status().message();
}

}  // namespace
}  // namespace hybridattn::engine
