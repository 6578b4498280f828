// The hand-written scanner against the same pattern in PCRE2, and both by example.
#include "engine/text/pre_tokenizer.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/text/pcre_splitter.h"
#include "engine/text/quote.h"
#include "engine/text/utf8.h"

namespace hybridattn::engine {
namespace {

using Pieces = std::vector<std::string_view>;

std::string pattern_of(bool marks, bool three_digits) {
  const std::string m = marks ? R"(\p{M})" : "";
  const std::string word = marks ? R"([\p{L}\p{M}]+)" : R"(\p{L}+)";
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?)" + word +
         (three_digits ? R"(|\p{N}{1,3})" : R"(|\p{N})") + R"(| ?[^\s\p{L})" + m +
         R"(\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

Pieces split(std::string_view pattern, std::string_view text) {
  Pieces pieces;
  const Result<PreTokenizer> splitter = PreTokenizer::create(pattern);
  EXPECT_TRUE(splitter.ok() && splitter->split(text, pieces).ok());
  return pieces;
}

/// Text that keeps to characters of Unicode 14 which PCRE2 and the scanner class alike, and is rich
/// in what the alternatives of the pattern look at.
std::string pattern_text(std::mt19937& rng) {
  static constexpr std::u32string_view kCharacters =
      U"aSsTtrREevVmMlLdD\u017F''''    "
      U"\t\r\n\n\u00A0\u2028\u3000\u0085\v\f123\u00BD\u0664.,!?-\u2019()"
      U"\u0301\u0323\u094D\u064B\u00E9\u4E2D\uD55C\u0915\U0001F600\u200D\uFE0F\u200B\0\x1C\u20AC";
  std::string text;
  const std::size_t count = 1 + rng() % 24;
  for (std::size_t i = 0; i < count; ++i)
    append_utf8(kCharacters[rng() % kCharacters.size()], text);
  return text;
}

TEST(KnownPattern, FourAreScannedByHand) {
  for (const bool marks : {false, true}) {
    for (const bool three : {false, true}) {
      const auto rules = known_pattern(pattern_of(marks, three));
      ASSERT_TRUE(rules.has_value());
      EXPECT_EQ(rules->marks_join_letters, marks);
      EXPECT_EQ(rules->max_digits, three ? 3u : 1u);
    }
  }
  EXPECT_FALSE(known_pattern("").has_value());
  EXPECT_FALSE(known_pattern(pattern_of(true, false) + " ").has_value());
}

TEST(Scanner, Examples) {
  const std::string p = pattern_of(true, false);
  EXPECT_EQ(split(p, ""), Pieces{});
  EXPECT_EQ(split(p, "Hello world"), (Pieces{"Hello", " world"}));
  EXPECT_EQ(split(p, "don't DON'T"), (Pieces{"don", "'t", " DON", "'T"}));
  EXPECT_EQ(split(p, "'\u017Fx'LLy'lx"), (Pieces{"'\u017F", "x", "'LL", "y", "'lx"}));
  EXPECT_EQ(split(p, "2048"), (Pieces{"2", "0", "4", "8"}));
  EXPECT_EQ(split(p, "a  b"), (Pieces{"a", " ", " b"}));
  EXPECT_EQ(split(p, "a   "), (Pieces{"a", "   "}));
  EXPECT_EQ(split(p, "a  1"), (Pieces{"a", " ", " ", "1"}));
  EXPECT_EQ(split(p, " \n \n  x"), (Pieces{" \n \n", " ", " x"}));
  EXPECT_EQ(split(p, "x ...\r\n\ny"), (Pieces{"x", " ...\r\n\n", "y"}));
  EXPECT_EQ(split(p, "a\u0301b"), (Pieces{"a\u0301b"}));
  EXPECT_EQ(split(p, ".\u0301"), (Pieces{".\u0301"}));
  EXPECT_EQ(split(p, "\nab"), (Pieces{"\n", "ab"}));
  EXPECT_EQ(split(p, "\tab"), (Pieces{"\tab"}));
  const std::string qwen2 = pattern_of(false, false);
  EXPECT_EQ(split(qwen2, "a\u0301b"), (Pieces{"a", "\u0301b"}));
  EXPECT_EQ(split(qwen2, "a\u0301."), (Pieces{"a", "\u0301."}));
  EXPECT_EQ(split(pattern_of(false, true), "12345"), (Pieces{"123", "45"}));
}

TEST(Scanner, EqualsPcre2) {
  std::mt19937 rng(3);
  for (const bool marks : {false, true}) {
    for (const bool three : {false, true}) {
      const std::string pattern = pattern_of(marks, three);
      const Result<PcreSplitter> pcre = PcreSplitter::create(pattern);
      ASSERT_TRUE(pcre.ok()) << pcre.status().message();
      for (int i = 0; i < 20000; ++i) {
        const std::string text = pattern_text(rng);
        Pieces by_hand, by_pcre;
        scan_pieces(text, *known_pattern(pattern), by_hand);
        ASSERT_TRUE(pcre->split(text, by_pcre).ok());
        ASSERT_EQ(by_hand, by_pcre) << in_quotes(text);
      }
    }
  }
}

// Quadratic work would take hours.
TEST(Scanner, LongRunsAreLinear) {
  const std::string p = pattern_of(true, false);
  for (const std::string unit :
       {" ", "\n", " \n", "a", "1", "'", ".", "\u0301", " .", "\u3000", "\r ."}) {
    std::string text;
    while (text.size() < 2'000'000) text += unit;
    std::size_t size = 0;
    for (const std::string_view piece : split(p, text)) size += piece.size();
    EXPECT_EQ(size, text.size());
  }
}

TEST(PreTokenizer, WithoutPatternKeepsTheText) {
  Pieces pieces;
  ASSERT_TRUE(PreTokenizer().split("a b", pieces).ok());
  ASSERT_TRUE(PreTokenizer().split("", pieces).ok());
  EXPECT_EQ(pieces, Pieces{"a b"});
}

TEST(PcreSplitter, KeepsWhatLiesBetweenMatches) {
  EXPECT_EQ(split(R"(\d+)", "ab12c3"), (Pieces{"ab", "12", "c", "3"}));
  EXPECT_EQ(split("x", "abc"), (Pieces{"abc"}));
  EXPECT_EQ(split("x", ""), Pieces{});
}

TEST(PcreSplitter, EmptyMatchesCutBetweenCharacters) {
  EXPECT_EQ(split("(?=b)", "abab"), (Pieces{"a", "ba", "b"}));
  EXPECT_EQ(split("", "\u00E9\u4E2D"), (Pieces{"\u00E9", "\u4E2D"}));
}

TEST(PcreSplitter, BadPatternsAreErrors) {
  for (const std::string pattern : {"(", "[a", "\\p{Nope}", "a\xFF", "\\C", "(?<=a+)b"}) {
    const Result<PreTokenizer> made = PreTokenizer::create(pattern);
    ASSERT_FALSE(made.ok()) << pattern;
    EXPECT_EQ(made.status().code(), StatusCode::kDataLoss);
    EXPECT_NE(made.status().message().find("at byte"), std::string::npos)
        << made.status().message();
  }
  EXPECT_FALSE(PreTokenizer::create(std::string(20000, 'a')).ok());
}

TEST(PcreSplitter, RunawayPatternIsAnError) {
  const Result<PreTokenizer> made = PreTokenizer::create("(a+)+b(?:x|\\1)");
  ASSERT_TRUE(made.ok());
  Pieces pieces;
  const Status status = made->split(std::string(5000, 'a') + "b", pieces);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("of 5001"), std::string::npos) << status.message();
}

TEST(PcreSplitter, MatchOutOfOrderIsAnError) {
  const Result<PreTokenizer> made = PreTokenizer::create("(?=b\\K)");
  if (!made.ok()) return;  // newer versions of PCRE2 refuse the pattern
  Pieces pieces;
  EXPECT_EQ(made->split("abc", pieces).code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace hybridattn::engine
