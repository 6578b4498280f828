// Text to token ids and back, with the ids that Hugging Face `tokenizers` gives for the same
// tokenizer.json (byte-level BPE only).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer_json.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

/// A loaded tokenizer. Movable; after loading all calls are const and safe from many threads.
class Tokenizer {
 public:
  /// The largest text that `encode` takes.
  static constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

  /// Reads a tokenizer.json. kNotFound when the file can't be read, kDataLoss when its content is
  /// malformed or contradicts itself, kUnsupported when it asks for something this engine doesn't
  /// do. Messages begin with the path.
  static Result<Tokenizer> load(const std::filesystem::path& tokenizer_json);

  /// The same from text in memory.
  static Result<Tokenizer> parse(std::string_view json);

  /// The ids of a text; none are added in front or behind. Added tokens inside of the text are
  /// recognised: who encodes text of users must keep them out.
  /// kInvalidArgument for invalid UTF-8 (with the byte offset) and for more than kMaxTextBytes,
  /// kNotFound for a byte without a token, kResourceExhausted when PCRE2 gives up on the pattern.
  Result<std::vector<std::int32_t>> encode(std::string_view utf8) const;

  /// The text of ids. Bytes that are no UTF-8 become U+FFFD; ids without a token add nothing, as in
  /// `tokenizers`. `skip_special` leaves out special tokens. kOutOfRange for a negative id.
  Result<std::string> decode(std::span<const std::int32_t> ids, bool skip_special) const;

  /// Appends the bytes of one token, which may be a part of a character. Ids without a token, and
  /// special ones with `skip_special`, add nothing. The building block of `StreamingDetokenizer`.
  void append_bytes(std::int32_t id, bool skip_special, std::string& bytes) const;

  /// The largest id + 1.
  std::int32_t vocab_size() const noexcept { return vocab_size_; }

  /// The id of an added token by its content, or of a token as the file writes it.
  std::optional<std::int32_t> token_to_id(std::string_view token) const;

  /// True for an added token with the flag `special`.
  bool is_special(std::int32_t id) const;

 private:
  Tokenizer(Bpe bpe, AddedVocabulary added, PreTokenizer pre_tokenizer, bool nfc);
  static Result<Tokenizer> create(TokenizerSpec spec);
  Status check_added_ids() const;
  Status encode_section(std::string_view text, std::vector<std::int32_t>& ids) const;
  Status encode_normalized(std::string_view text, std::vector<std::int32_t>& ids) const;

  Bpe bpe_;
  AddedVocabulary added_;
  PreTokenizer pre_tokenizer_;
  bool nfc_;
  std::int32_t vocab_size_;
};

}  // namespace hybridattn::engine
