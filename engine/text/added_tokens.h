// Added tokens: strings that are recognised inside of text before any splitting, with the rules of
// Hugging Face `tokenizers`.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hybridattn/status.h"

namespace hybridattn::engine {

/// One entry of `added_tokens` in a tokenizer.json.
struct AddedToken {
  std::int64_t id = -1;
  std::string content;
  bool single_word = false;  ///< Only where no \w character is next to it.
  bool lstrip = false;       ///< Takes the white space before it.
  bool rstrip = false;       ///< Takes the white space after it.
  bool normalized = false;   ///< Its normalised form is looked for in the normalised text.
  bool special = false;      ///< `decode` may leave it out.
};

/// A stretch of text: an added token, or what lies between two of them.
struct Segment {
  std::string_view text;
  std::int32_t id = -1;  ///< -1: not an added token.
};

/// Finds a set of byte strings, leftmost first and longest among those that start at one place.
class TokenMatcher {
 public:
  struct Rules {
    std::int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
  };

  TokenMatcher() { root_.fill(-1); }

  /// False when the pattern is already there. The caller keeps patterns from being empty.
  bool add(std::string_view pattern, const Rules& rules);

  bool empty() const noexcept { return rules_.empty(); }

  /// Appends the segments of `text` in order. `text` is valid UTF-8 and must outlive them. Time:
  /// the size of the text times the length of the longest pattern at worst.
  void split(std::string_view text, std::vector<Segment>& segments) const;

 private:
  struct Node {
    std::vector<std::pair<char, std::int32_t>> children;  // few: a search through them is enough
    std::int32_t rules = -1;
  };
  struct Match {
    std::size_t end = 0;
    std::int32_t rules = -1;  // -1: no match
  };

  std::int32_t child(std::int32_t node, char byte) const noexcept;
  Match longest_at(std::string_view text, std::size_t pos) const noexcept;

  std::array<std::int32_t, 256> root_;  // by first byte: a node, or -1
  std::vector<Node> nodes_;
  std::vector<Rules> rules_;
};

/// All added tokens of a tokenizer.
class AddedVocabulary {
 public:
  static constexpr std::size_t kMaxTokens = 65536;
  static constexpr std::size_t kMaxContentBytes = 4096;

  /// Checks the tokens by themselves: kDataLoss for an id out of range or given twice, a content
  /// that is empty, too long or given twice, and two `normalized` tokens with one normalised form.
  /// `nfc`: the tokenizer's normaliser is NFC and not nothing.
  static Result<AddedVocabulary> create(std::vector<AddedToken> tokens, bool nfc);

  /// Segments by the tokens that are not `normalized`; takes text as it came.
  const TokenMatcher& raw() const noexcept { return raw_; }
  /// Segments by the tokens that are `normalized`; takes normalised text.
  const TokenMatcher& normalized() const noexcept { return normalized_; }

  /// The token of an id or a content, or null. Owned by this object.
  const AddedToken* find(std::int32_t id) const;
  const AddedToken* find(std::string_view content) const;

  /// What `decode` writes for a token: its normalised form if it is `normalized`.
  const std::string& decoded(const AddedToken& token) const;
  /// True when `decode` leaves the token out on request. Not the same as `special`: as `tokenizers`
  /// does, the decoded form is looked up among the contents of special tokens.
  bool skipped(const AddedToken& token) const;

  const std::vector<AddedToken>& tokens() const noexcept { return tokens_; }

 private:
  Status add(std::size_t index, bool nfc);

  std::vector<AddedToken> tokens_;
  std::vector<std::string> decoded_;  // as tokens_
  std::unordered_map<std::int64_t, std::size_t> by_id_;
  std::unordered_map<std::string, std::size_t> by_content_;
  TokenMatcher raw_;
  TokenMatcher normalized_;
};

}  // namespace hybridattn::engine
