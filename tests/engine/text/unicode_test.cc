// Character classes, NFC and UTF-8.
#include "engine/text/unicode.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

#include "engine/text/quote.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/text_test_support.h"

namespace hybridattn::engine {
namespace {

TEST(Unicode, ClassesOfSingleCharacters) {
  EXPECT_TRUE(is_letter(U'a') && is_letter(U'\u4E2D') && is_letter(U'\uAC00'));
  EXPECT_TRUE(is_letter(U'\U000105C9'));  // assigned in Unicode 16
  EXPECT_FALSE(is_letter(U'1') || is_letter(U'\u0301') || is_letter(U'\u24B6'));
  EXPECT_TRUE(is_mark(U'\u0301') && is_mark(U'\u094D') && is_mark(U'\U000E01EF'));
  EXPECT_FALSE(is_mark(U'a') || is_mark(U'\u200D'));
  EXPECT_TRUE(is_number(U'7') && is_number(U'\u00BD') && is_number(U'\u2167'));
  EXPECT_FALSE(is_number(U'a') || is_number(U'\U0010FFFF'));
}

TEST(Unicode, CountsOfClassesAreThoseOfVersion16) {
  int letters = 0, marks = 0, numbers = 0, words = 0;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    letters += is_letter(c);
    marks += is_mark(c);
    numbers += is_number(c);
    words += is_word(c);
  }
  EXPECT_EQ(letters, 141028);
  EXPECT_EQ(marks, 2501);
  EXPECT_EQ(numbers, 1911);
  EXPECT_EQ(words, 144667);
}

TEST(Unicode, WhiteSpaceIsTheProperty) {
  std::u32string found;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (is_white_space(c)) found += c;
  }
  const std::u32string expected =
      U"\t\n\v\f\r "
      U"\u0085\u00A0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A"
      U"\u2028\u2029\u202F\u205F\u3000";
  EXPECT_TRUE(found == expected);
}

TEST(Unicode, WordCharacters) {
  for (const char32_t c :
       std::u32string_view(U"aZ_9\u00E9\u0301\u200D\u24B6\U0001F130\u203F\u2160")) {
    EXPECT_TRUE(is_word(c)) << std::hex << static_cast<unsigned>(c);
  }
  for (const char32_t c : std::u32string_view(U" .-\u00BD\u00B2\u2019\u2460\U0001F600")) {
    EXPECT_FALSE(is_word(c)) << std::hex << static_cast<unsigned>(c);
  }
}

TEST(Unicode, CodePointsBeyondTheTablesHaveNoClass) {
  for (const char32_t c : {char32_t{0x110000}, char32_t{0xFFFFFFFF}}) {
    EXPECT_FALSE(is_letter(c) || is_mark(c) || is_number(c) || is_white_space(c) || is_word(c));
  }
}

TEST(Nfc, KnownForms) {
  EXPECT_EQ(to_nfc(""), "");
  EXPECT_EQ(to_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(to_nfc("\u212B"), "\u00C5");               // singleton
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C");         // composition exclusion
  EXPECT_EQ(to_nfc("\u0344"), "\u0308\u0301");         // non-starter decomposition
  EXPECT_EQ(to_nfc("a\u0301\u0323"), "\u1EA1\u0301");  // reordered, then composed
  EXPECT_EQ(to_nfc("a\u0315\u0300\u05AE\u0062"), "\u00E0\u05AE\u0315b");
  EXPECT_EQ(to_nfc("\u1E9B\u0323"), "\u1E9B\u0323");
  EXPECT_EQ(to_nfc("\u0301a"), "\u0301a");              // no starter before the mark
  EXPECT_EQ(to_nfc("a\u034F\u0301"), "a\u034F\u0301");  // blocked by a starter between
  EXPECT_EQ(to_nfc("\u1F81"), "\u1F81");                // three steps deep
  EXPECT_EQ(to_nfc("a\u0305\u0301"), "a\u0305\u0301");  // blocked by a mark of the same class
  EXPECT_EQ(to_nfc("\u03B1\u0314\u0345"), "\u1F81");
}

TEST(Nfc, Hangul) {
  EXPECT_EQ(to_nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(to_nfc("\uD558\u11AB"), "\uD55C");
  EXPECT_EQ(to_nfc("\u1112\u1161\u11A7"), "\uD558\u11A7");  // U+11A7 is no trailing consonant
  EXPECT_EQ(to_nfc("\uD55C\u11AB"), "\uD55C\u11AB");
  EXPECT_EQ(to_nfc("\u1161\u11AB"), "\u1161\u11AB");
}

TEST(Nfc, HangulSyllablesSurviveDecomposition) {
  std::string all = "e\u0301";  // keeps the quick check from passing
  for (char32_t c = 0xAC00; c <= 0xD7A3; ++c) append_utf8(c, all);
  const std::string composed = to_nfc(all);
  EXPECT_EQ(composed, "\u00E9" + all.substr(3));
}

TEST(Nfc, NewerThanUnicode9StaysAsTheOracleLeavesIt) {
  EXPECT_EQ(to_nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(to_nfc("a\u0898\u0316"), "a\u0898\u0316");
}

TEST(Nfc, IsIdempotentAndQuickCheckIsNeverWrong) {
  std::mt19937 rng(11);
  int quick = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = random_text(rng, 1 + i % 7);
    const std::string composed = to_nfc(text);
    EXPECT_EQ(to_nfc(composed), composed);
    // A character in front that fails the quick check forces the long way.
    const std::string slow = to_nfc("e\u0301." + text);
    EXPECT_EQ(slow, "\u00E9." + composed) << in_quotes(text);
    quick += is_nfc_quick(text);
  }
  EXPECT_GT(quick, 1000);
  EXPECT_LT(quick, 19000);
}

TEST(Nfc, ManyMarksAreNotQuadratic) {
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0316";
  const std::string composed = to_nfc(text);
  EXPECT_EQ(composed.size(), text.size() - 1);  // a + acute become one, two bytes for three
}

TEST(Utf8, RefusesWhatIsNotStrict) {
  EXPECT_EQ(find_invalid_utf8("abc\u00E9\u4E2D\U0001F600"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF"), std::nullopt);
  const std::pair<std::string_view, std::size_t> cases[] = {{"\x80", 0},
                                                            {"a\xC0\x80", 1},
                                                            {"ab\xE0\x80\x80", 2},
                                                            {"\xED\xA0\x80", 0},
                                                            {"\xF0\x8F\xBF\xBF", 0},
                                                            {"\xF4\x90\x80\x80", 0},
                                                            {"\xF5", 0},
                                                            {"abc\xE4\xB8", 3},
                                                            {"\xC1\xBF", 0},
                                                            {"\xE4\xB8\x41", 0},
                                                            {"\xFF", 0}};
  for (const auto& [text, offset] : cases)
    EXPECT_EQ(find_invalid_utf8(text), offset) << in_quotes(text);
}

TEST(Utf8, EveryScalarSurvives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    append_utf8(c, text);
    const Utf8Char found = decode_utf8(text, 0);
    std::size_t pos = 0;
    ASSERT_TRUE(found.state == Utf8State::kValid && found.code_point == c);
    ASSERT_EQ(found.length, text.size());
    ASSERT_EQ(next_code_point(text, pos), c);
    ASSERT_EQ(pos, text.size());
  }
}

TEST(Utf8, LossyReplacesMaximalParts) {
  const auto lossy = [](std::string_view bytes) {
    std::string out;
    EXPECT_EQ(append_lossy(bytes, true, out), bytes.size());
    return out;
  };
  EXPECT_EQ(lossy("a\xFF"
                  "b"),
            "a\uFFFDb");
  EXPECT_EQ(lossy("\xF0\x9F\x98"), "\uFFFD");
  EXPECT_EQ(lossy("\xF0\x9F\x98\x41"),
            "\uFFFD"
            "A");
  EXPECT_EQ(lossy("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(lossy("\xE0\x80"), "\uFFFD\uFFFD");
  EXPECT_EQ(lossy("\xE4\xB8\xE4\xB8\xAD"), "\uFFFD\u4E2D");
}

TEST(Utf8, LossyHoldsBackAnIncompleteTail) {
  std::string out;
  EXPECT_EQ(append_lossy("ab\xF0\x9F", false, out), 2u);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(append_lossy("\xF0\x41", false, out), 2u);
  EXPECT_EQ(out,
            "ab\uFFFD"
            "A");
}

TEST(Quote, IsOneLineAndShort) {
  EXPECT_EQ(in_quotes("a\"b\\c\n\u2028\xFF"), R"("a\x22b\x5cc\x0a\xe2\x80\xa8\xff")");
  EXPECT_EQ(in_quotes("\u4E2D"), "\"\u4E2D\"");
  EXPECT_EQ(in_quotes(std::string(1000, 'x')), "\"" + std::string(60, 'x') + "\"...");
}

}  // namespace
}  // namespace hybridattn::engine
