// The stream gives out whole characters and, in the end, what `decode` gives.
#include "engine/text/detokenizer.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/text/utf8.h"
#include "tests/engine/text/text_test_support.h"

namespace hybridattn::engine {
namespace {

/// Ids below 256 are bytes here, see small_tokenizer_json.
Tokenizer small() {
  Result<Tokenizer> made = Tokenizer::parse(small_tokenizer_json().dump());
  if (!made.ok()) throw std::runtime_error(made.status().message());
  return std::move(made).value();
}

TEST(Detokenizer, HoldsBackACharacterCutOverTokens) {
  const Tokenizer tokenizer = small();
  StreamingDetokenizer stream(tokenizer, false);
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.push(0x9F), "");
  EXPECT_EQ(stream.push(0x98), "");
  EXPECT_EQ(stream.push(0x80), "\U0001F600");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Detokenizer, BrokenCharacterIsReplacedWhenTheNextByteShowsIt) {
  const Tokenizer tokenizer = small();
  StreamingDetokenizer stream(tokenizer, false);
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.push(0xB8), "");
  EXPECT_EQ(stream.push(256),
            "\uFFFD"
            "ab");
  EXPECT_EQ(stream.push(0xFF), "\uFFFD");
}

TEST(Detokenizer, FinishFlushesAndStartsAnew) {
  const Tokenizer tokenizer = small();
  StreamingDetokenizer stream(tokenizer, false);
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push(0xB8), "\uFFFD");  // no longer a continuation
}

TEST(Detokenizer, SpecialAndUnknownIds) {
  const Tokenizer tokenizer = small();
  StreamingDetokenizer keep(tokenizer, false);
  EXPECT_EQ(keep.push(259), "<s>");
  EXPECT_EQ(keep.push(260), "<t>");
  EXPECT_EQ(keep.push(5000), "");
  EXPECT_EQ(keep.push(-1), "");
  StreamingDetokenizer skip(tokenizer, true);
  EXPECT_EQ(skip.push(0xC3), "");
  EXPECT_EQ(skip.push(259), "");
  EXPECT_EQ(skip.push(0xA9), "\u00E9");
  EXPECT_EQ(skip.push(260), "<t>");
}

TEST(Detokenizer, EqualsDecodeForRandomIds) {
  const Tokenizer tokenizer = small();
  std::mt19937 rng(17);
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::int32_t> ids;
    for (std::size_t n = rng() % 12; n > 0; --n) {
      // Mostly bytes of multi-byte characters, so that there are many ways to be cut or broken.
      ids.push_back(static_cast<std::int32_t>(rng() % 4 == 0 ? rng() % 262 : 0x80 + rng() % 0x80));
    }
    const bool skip = rng() % 2 == 0;
    StreamingDetokenizer stream(tokenizer, skip);
    std::string joined;
    for (const std::int32_t id : ids) {
      const std::string part = stream.push(id);
      ASSERT_EQ(find_invalid_utf8(part), std::nullopt);
      joined += part;
    }
    ASSERT_EQ(joined + stream.finish(), *tokenizer.decode(ids, skip));
  }
}

}  // namespace
}  // namespace hybridattn::engine
