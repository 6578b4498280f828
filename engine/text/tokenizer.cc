#include "engine/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "engine/text/byte_alphabet.h"
#include "engine/text/quote.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

template <class T>
Result<T> with_path(const std::filesystem::path& path, Result<T> result) {
  if (result.ok()) return result;
  return Status(result.status().code(), concat(path.string(), ": ", result.status().message()));
}

}  // namespace

Tokenizer::Tokenizer(Bpe bpe, AddedVocabulary added, PreTokenizer pre_tokenizer, bool nfc)
    : bpe_(std::move(bpe)), added_(std::move(added)), pre_tokenizer_(std::move(pre_tokenizer)),
      nfc_(nfc), vocab_size_(bpe_.size()) {
  for (const AddedToken& token : added_.tokens()) {
    vocab_size_ = std::max(vocab_size_, static_cast<std::int32_t>(token.id) + 1);
  }
}

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  Result<TokenizerSpec> spec = read_tokenizer_json(tokenizer_json);
  if (!spec.ok()) return with_path(tokenizer_json, Result<Tokenizer>(spec.status()));
  return with_path(tokenizer_json, create(std::move(spec).value()));
}

Result<Tokenizer> Tokenizer::parse(std::string_view json) {
  HYBRIDATTN_ASSIGN(TokenizerSpec spec, parse_tokenizer_json(json));
  return create(std::move(spec));
}

Result<Tokenizer> Tokenizer::create(TokenizerSpec spec) {
  HYBRIDATTN_ASSIGN(Bpe bpe, Bpe::create(std::move(spec.bpe)));
  const std::optional<int> missing = bpe.first_missing_byte();
  if (spec.needs_all_bytes && missing) {
    return error(StatusCode::kUnsupported, "model.unk_token: found one, and no token for byte ",
                 *missing, "; supported: null, or a vocabulary with all 256 bytes");
  }
  HYBRIDATTN_ASSIGN(AddedVocabulary added,
                    AddedVocabulary::create(std::move(spec.added_tokens), spec.nfc));
  PreTokenizer pre_tokenizer;
  if (spec.split_pattern) {
    HYBRIDATTN_ASSIGN(pre_tokenizer, PreTokenizer::create(*spec.split_pattern));
  }
  Tokenizer made(std::move(bpe), std::move(added), std::move(pre_tokenizer), spec.nfc);
  HYBRIDATTN_TRY(made.check_added_ids());
  return made;
}

/// An added token may repeat one of the vocabulary, but then it has to agree with it.
Status Tokenizer::check_added_ids() const {
  for (const AddedToken& token : added_.tokens()) {
    const auto id = static_cast<std::int32_t>(token.id);
    const std::optional<std::int32_t> of_content = bpe_.token_to_id(token.content);
    if (of_content && *of_content != id) {
      return data_loss("added token ", in_quotes(token.content), ": found id ", id,
                       "; model.vocab has ", *of_content);
    }
    const std::string* of_id = bpe_.id_to_token(id);
    if (of_id != nullptr && *of_id != token.content) {
      return data_loss("added token ", in_quotes(token.content), ": its id ", id, " is that of ",
                       in_quotes(*of_id), " in model.vocab");
    }
  }
  return {};
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view utf8) const {
  if (utf8.size() > kMaxTextBytes) {
    return invalid_argument("encode: found a text of ", utf8.size(), " bytes; wanted at most ",
                            kMaxTextBytes);
  }
  if (const auto invalid = find_invalid_utf8(utf8)) {
    const int byte = static_cast<std::uint8_t>(utf8[*invalid]);
    return invalid_argument("encode: invalid UTF-8 at byte offset ", *invalid, " (value ", byte,
                            "); wanted valid UTF-8");
  }
  std::vector<std::int32_t> ids;
  std::vector<Segment> segments;
  added_.raw().split(utf8, segments);
  for (const Segment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      HYBRIDATTN_TRY(encode_section(segment.text, ids));
    }
  }
  return ids;
}

/// Text without added tokens of the first kind, which are looked for before normalisation.
Status Tokenizer::encode_section(std::string_view text, std::vector<std::int32_t>& ids) const {
  std::string composed;
  if (nfc_ && !is_nfc_quick(text)) {
    composed = to_nfc(text);
    text = composed;
  }
  std::vector<Segment> segments;
  added_.normalized().split(text, segments);
  for (const Segment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      HYBRIDATTN_TRY(encode_normalized(segment.text, ids));
    }
  }
  return {};
}

Status Tokenizer::encode_normalized(std::string_view text, std::vector<std::int32_t>& ids) const {
  std::vector<std::string_view> pieces;
  HYBRIDATTN_TRY(pre_tokenizer_.split(text, pieces));
  for (const std::string_view piece : pieces) HYBRIDATTN_TRY(bpe_.encode(piece, ids));
  return {};
}

Result<std::string> Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) {
      return error(StatusCode::kOutOfRange, "decode: ids[", i, "]: found ", ids[i],
                   "; wanted 0 or more");
    }
    append_bytes(ids[i], skip_special, bytes);
  }
  std::string text;
  text.reserve(bytes.size());
  append_lossy(bytes, /*last=*/true, text);
  return text;
}

void Tokenizer::append_bytes(std::int32_t id, bool skip_special, std::string& bytes) const {
  if (const AddedToken* added = added_.find(id)) {
    if (!skip_special || !added_.skipped(*added)) append_token_bytes(added_.decoded(*added), bytes);
    return;
  }
  if (const std::string* token = bpe_.id_to_token(id)) append_token_bytes(*token, bytes);
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = added_.find(token)) return static_cast<std::int32_t>(added->id);
  return bpe_.token_to_id(token);
}

bool Tokenizer::is_special(std::int32_t id) const {
  const AddedToken* added = added_.find(id);
  return added != nullptr && added->special;
}

}  // namespace hybridattn::engine
