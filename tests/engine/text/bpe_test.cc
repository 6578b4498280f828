// Merging against the textbook form of BPE, and the checks of a vocabulary.
#include "engine/text/bpe.h"

#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "engine/text/byte_alphabet.h"
#include "tests/engine/text/text_test_support.h"

namespace hybridattn::engine {
namespace {

using Ids = std::vector<std::int32_t>;

/// Ids 0 to 255 are the bytes; each merge adds the next id.
BpeSpec spec_of(const std::vector<std::pair<std::string, std::string>>& merges) {
  BpeSpec spec;
  for (int byte = 0; byte < 256; ++byte) {
    spec.vocabulary.emplace_back(alphabet(std::string(1, static_cast<char>(byte))), byte);
  }
  for (const auto& [left, right] : merges) {
    const auto known = [&](const auto& entry) { return entry.first == left + right; };
    if (std::none_of(spec.vocabulary.begin(), spec.vocabulary.end(), known)) {
      const auto id = static_cast<std::int64_t>(spec.vocabulary.size());
      spec.vocabulary.emplace_back(left + right, id);
    }
    spec.merges.emplace_back(left, right);
  }
  return spec;
}

/// Random merges over a, b and c, which give each other many occasions.
BpeSpec random_spec(std::mt19937& rng, int count) {
  std::vector<std::string> tokens = {"a", "b", "c"};
  std::vector<std::pair<std::string, std::string>> merges;
  for (int i = 0; i < count; ++i) {
    const std::string left = tokens[rng() % tokens.size()];
    const std::string right = tokens[rng() % tokens.size()];
    if (left.size() + right.size() > 12) continue;
    merges.emplace_back(left, right);
    tokens.push_back(left + right);
  }
  std::shuffle(merges.begin(), merges.end(), rng);
  return spec_of(merges);
}

/// One merge at a time, everywhere looked at again: slow and obvious.
std::vector<std::string> textbook(const BpeSpec& spec, std::string_view piece) {
  std::vector<std::string> parts;
  for (const char c : piece) parts.emplace_back(1, c);
  while (true) {
    std::size_t best_rank = spec.merges.size(), best_at = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      for (std::size_t rank = spec.merges.size(); rank-- > 0;) {
        if (spec.merges[rank].first != parts[i] || spec.merges[rank].second != parts[i + 1])
          continue;
        if (rank < best_rank) best_rank = rank, best_at = i;
        break;  // of a pair given twice the last rank holds
      }
    }
    if (best_rank == spec.merges.size()) return parts;
    parts[best_at] += parts[best_at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

Bpe make(BpeSpec spec) {
  Result<Bpe> made = Bpe::create(std::move(spec));
  if (!made.ok()) throw std::runtime_error(made.status().message());
  return std::move(made).value();
}

Ids encode(const Bpe& bpe, std::string_view piece) {
  Ids ids;
  const Status status = bpe.encode(piece, ids);
  EXPECT_TRUE(status.ok()) << status.message();
  return ids;
}

TEST(ByteAlphabet, IsABijection) {
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(alphabet_to_byte(byte_to_alphabet(static_cast<std::uint8_t>(byte))), byte);
  }
  EXPECT_EQ(byte_to_alphabet(' '), U'\u0120');
  EXPECT_EQ(byte_to_alphabet('\n'), U'\u010A');
  EXPECT_EQ(byte_to_alphabet(0xAD), U'\u0143');
  EXPECT_EQ(byte_to_alphabet('a'), U'a');
  EXPECT_EQ(alphabet_to_byte(U' '), -1);
  EXPECT_EQ(alphabet_to_byte(U'\u4E2D'), -1);
}

TEST(ByteAlphabet, TokenOutsideOfItStandsForItself) {
  std::string out = "x";
  append_token_bytes("\u0120a b", out);
  append_token_bytes("\u0120a", out);
  EXPECT_EQ(out, "x\u0120a b a");
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  const Bpe bpe = make(spec_of({{"b", "c"}, {"a", "b"}, {"a", "a"}}));
  EXPECT_EQ(encode(bpe, ""), Ids{});
  EXPECT_EQ(encode(bpe, "abc"), (Ids{'a', 256}));
  EXPECT_EQ(encode(bpe, "aaab"), (Ids{258, 257}));
  EXPECT_EQ(encode(bpe, "aaa"), (Ids{258, 'a'}));
}

TEST(Bpe, EqualsTheTextbookForShortAndLongPieces) {
  std::mt19937 rng(5);
  for (int round = 0; round < 40; ++round) {
    const BpeSpec spec = random_spec(rng, 60);
    const Bpe bpe = make(spec);
    for (const std::size_t length : {1u, 2u, 7u, 30u, 63u, 64u, 65u, 90u, 200u}) {
      std::string piece;
      while (piece.size() < length) piece += static_cast<char>('a' + rng() % 3);
      Ids expected;
      for (const std::string& part : textbook(spec, piece))
        expected.push_back(*bpe.token_to_id(part));
      EXPECT_EQ(encode(bpe, piece), expected) << piece;
      EXPECT_EQ(encode(bpe, piece), expected) << "second time: " << piece;
    }
  }
}

TEST(Bpe, WholeTokensThatMergesDontReachAreTakenApart) {
  BpeSpec spec = spec_of({{"a", "b"}});
  spec.vocabulary.emplace_back("abc", 257);
  const Bpe bpe = make(spec);
  EXPECT_EQ(encode(bpe, "abc"), (Ids{256, 'c'}));
  EXPECT_EQ(encode(bpe, "abc"), (Ids{256, 'c'}));
  EXPECT_EQ(encode(bpe, "ab"), (Ids{256}));
  EXPECT_EQ(encode(bpe, "ab"), (Ids{256}));
  spec.ignore_merges = true;
  EXPECT_EQ(encode(make(spec), "abc"), (Ids{257}));
}

// Quadratic work would not end within the time that a test has at most.
TEST(Bpe, ALongPieceIsNotQuadratic) {
  const Bpe bpe = make(spec_of({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}}));
  const Ids ids = encode(bpe, std::string(1'000'003, 'a'));
  EXPECT_EQ(ids.size(), 125002u);
  EXPECT_EQ((Ids(ids.end() - 3, ids.end())), (Ids{258, 256, 'a'}));
}

TEST(Bpe, ManyThreadsGiveTheSameIds) {
  std::mt19937 rng(9);
  const Bpe bpe = make(random_spec(rng, 80));
  std::vector<std::string> pieces;
  for (int i = 0; i < 500; ++i) {
    std::string piece;
    for (std::size_t n = 1 + rng() % 6; n > 0; --n) piece += static_cast<char>('a' + rng() % 3);
    pieces.push_back(piece);
  }
  std::vector<Ids> found(4);
  std::vector<std::thread> threads;
  for (Ids& ids : found) {
    threads.emplace_back([&] {
      for (const std::string& piece : pieces) static_cast<void>(bpe.encode(piece, ids).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Ids& ids : found) EXPECT_EQ(ids, found[0]);
  EXPECT_FALSE(found[0].empty());
}

TEST(Bpe, MissingByteIsNamed) {
  BpeSpec spec = spec_of({});
  spec.vocabulary.erase(spec.vocabulary.begin() + ' ');
  const Bpe bpe = make(spec);
  EXPECT_EQ(bpe.first_missing_byte(), 32);
  Ids ids;
  const Status status = bpe.encode("a b", ids);
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("byte 32"), std::string::npos) << status.message();
  EXPECT_EQ(bpe.encode(std::string(100, ' '), ids).code(), StatusCode::kNotFound);
  EXPECT_EQ(make(spec_of({})).first_missing_byte(), std::nullopt);
}

TEST(Bpe, LookUps) {
  const Bpe bpe = make(spec_of({{"a", "b"}}));
  EXPECT_EQ(bpe.size(), 257);
  EXPECT_EQ(bpe.token_to_id("ab"), 256);
  EXPECT_EQ(bpe.token_to_id("ba"), std::nullopt);
  EXPECT_EQ(*bpe.id_to_token(256), "ab");
  EXPECT_EQ(bpe.id_to_token(257), nullptr);
  EXPECT_EQ(bpe.id_to_token(-1), nullptr);
}

TEST(Bpe, ContradictionsAreRefused) {
  const auto message_of = [](BpeSpec spec) {
    const Result<Bpe> made = Bpe::create(std::move(spec));
    EXPECT_EQ(made.status().code(), StatusCode::kDataLoss);
    return made.status().message();
  };
  const auto with = [](const char* token, std::int64_t id) {
    BpeSpec spec = spec_of({});
    spec.vocabulary.emplace_back(token, id);
    return spec;
  };
  EXPECT_NE(message_of(with("ab", -1)).find("\"ab\": found id -1"), std::string::npos);
  EXPECT_NE(message_of(with("ab", Bpe::kMaxId + 1)).find("found id 4194304"), std::string::npos);
  EXPECT_NE(message_of(with("ab", 97)).find("id 97: found two tokens"), std::string::npos);
  EXPECT_NE(message_of(with("a", 256)).find("token \"a\": found twice"), std::string::npos);
  EXPECT_NE(message_of(with("", 256)).find("empty token"), std::string::npos);
  BpeSpec spec = spec_of({{"a", "b"}});
  spec.merges.emplace_back("ab", "cd");
  EXPECT_NE(message_of(spec).find("model.merges[1]: token \"cd\" is not"), std::string::npos);
  spec.merges.back() = {"ab", "c"};
  EXPECT_NE(message_of(spec).find("model.merges[1]: token \"abc\" is not"), std::string::npos);
}

}  // namespace
}  // namespace hybridattn::engine
