// Byte-level BPE: a piece of text becomes the ids of its bytes, and adjacent pairs are merged,
// lowest rank first and leftmost first among equals, until no pair has a merge.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/pair_map.h"
#include "engine/text/token_map.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

/// The model section of a tokenizer.json, as far as it matters here.
struct BpeSpec {
  std::vector<std::pair<std::string, std::int64_t>> vocabulary;  ///< Token in the alphabet, id.
  std::vector<std::pair<std::string, std::string>> merges;       ///< By rising rank.
  bool ignore_merges = false;  ///< A piece that is a token as a whole is not taken apart.
};

/// Vocabulary and merges. Immutable but for an internal cache of atomics: one object serves all
/// threads. Movable.
class Bpe {
 public:
  /// The highest id a vocabulary may have; a bound on memory, 16 times the largest one known.
  static constexpr std::int64_t kMaxId = (std::int64_t{1} << 22) - 1;

  /// kDataLoss for an id that is negative, above kMaxId or given twice, a token given twice, and a
  /// merge whose parts or result are not in the vocabulary. Bytes without a token are found by
  /// `encode`; see `first_missing_byte`.
  static Result<Bpe> create(BpeSpec spec);

  /// Appends the ids of a piece, any bytes. kNotFound when a byte of it has no token.
  /// O(n log n) time for a piece of n bytes, n below 2^31.
  Status encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

  /// The id of a token as the file writes it.
  std::optional<std::int32_t> token_to_id(std::string_view token) const;

  /// The token of an id as the file writes it, or null when the id has none. Owned by this object.
  const std::string* id_to_token(std::int32_t id) const noexcept;

  /// The largest id + 1.
  std::int32_t size() const noexcept { return static_cast<std::int32_t>(tokens_.size()); }

  /// The lowest byte that has no token of its own, if there is one.
  std::optional<int> first_missing_byte() const noexcept;

 private:
  /// What is known of the BPE of a whole token.
  enum Whole : std::uint8_t { kUnknown = 0, kItself, kTakenApart };

  Bpe() = default;
  Status add_tokens(std::vector<std::pair<std::string, std::int64_t>>& vocabulary);
  Status add_merges(const std::vector<std::pair<std::string, std::string>>& merges);
  void find_byte_ids();
  std::int32_t whole_piece(std::string_view piece) const;
  Status byte_ids(std::string_view piece, std::int32_t* out) const;
  std::size_t merge_short(std::int32_t* ids, std::size_t count) const;
  void merge_long(std::vector<std::int32_t>& ids) const;

  bool ignore_merges_ = false;
  std::size_t max_token_bytes_ = 0;
  std::vector<std::string> tokens_;  // by id; empty where the id has no token
  TokenMap ids_;                     // into tokens_
  PairMap merges_;
  std::int32_t byte_ids_[256];  // -1: the byte has no token
  // Per id a Whole. Most words are one token, and for these a look-up replaces the merging. Threads
  // that race here write the same value.
  std::unique_ptr<std::atomic<std::uint8_t>[]> whole_;
};

}  // namespace hybridattn::engine
