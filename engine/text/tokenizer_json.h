// Reads a tokenizer.json and refuses what the text engine doesn't do.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

/// What a tokenizer.json says, checked field by field but not yet against one another.
struct TokenizerSpec {
  std::vector<AddedToken> added_tokens;
  bool nfc = false;                          ///< The normaliser is NFC, or there is none.
  std::optional<std::string> split_pattern;  ///< Text between added tokens is split by it.
  bool needs_all_bytes = false;  ///< The model has an unk_token: no byte may lack a token.
  BpeSpec bpe;
};

/// kDataLoss for malformed content, kUnsupported for a legal field with a value that isn't
/// supported. Messages name the field, the value found and what is supported. Unknown fields are
/// ignored, as `tokenizers` ignores them.
Result<TokenizerSpec> parse_tokenizer_json(std::string_view json);

/// Reads and parses a file of at most 64 MiB. As above, and kNotFound when it can't be read.
Result<TokenizerSpec> read_tokenizer_json(const std::filesystem::path& path);

}  // namespace hybridattn::engine
