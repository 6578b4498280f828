// Any text, or any small legal tokenizer, as tokenizer.json: refused in one line, or a tokenizer
// whose ids and texts agree.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "engine/text/byte_alphabet.h"
#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/fuzz/fuzz.h"

namespace hybridattn::fuzz {
namespace {

using engine::Tokenizer;
using nlohmann::json;

constexpr const char* kPatterns[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"(\s+|\w+)",
    R"(x*)",
    R"((?=a)|b\K)"};
constexpr const char* kContents[] = {"<s>",  "</s>",     "a",         "ab",          " ",
                                     "<s> ", "\xc3\xa9", "e\xcc\x81", "\xe2\x80\xa8"};

/// A tokenizer and what a reader may count on.
struct Made {
  std::string text;
  std::vector<std::string> tokens;  // bytes of each token of the vocabulary, by id
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  bool all_bytes = true;
  bool exact = true;   ///< decoding gives the text back
  bool simple = true;  ///< the whole text is one piece and nothing but BPE happens to it
};

json added_token(Bytes& bytes, std::int64_t id, Made& made) {
  const std::string content = kContents[bytes.index(std::size(kContents))];
  const auto flags = static_cast<unsigned>(bytes.byte());
  const auto bit = [flags](unsigned i) { return (flags >> i & 1) != 0; };
  // Stripped space is lost; a content that reads as the alphabet decodes to other bytes.
  made.exact = made.exact && !bit(1) && !bit(2) && engine::is_ascii(content);
  made.simple = false;
  return {{"id", id},         {"content", content},   {"single_word", bit(0)}, {"lstrip", bit(1)},
          {"rstrip", bit(2)}, {"normalized", bit(3)}, {"special", bit(4)}};
}

json pre_tokenizer(Bytes& bytes, Made& made) {
  json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const std::int64_t kind = bytes.integer(0, 3);
  if (kind == 0) return byte_level;
  made.simple = false;
  if (kind == 1) {
    byte_level["use_regex"] = true;
    return byte_level;
  }
  const std::string pattern =
      kind == 2 ? kPatterns[bytes.index(std::size(kPatterns))] : bytes.text(bytes.index(24));
  const json split{{"type", "Split"},
                   {"pattern", {{"Regex", pattern}}},
                   {"behavior", "Isolated"},
                   {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}};
}

std::string in_alphabet(const std::string& bytes) {
  std::string token;
  engine::append_alphabet(bytes, token);
  return token;
}

/// The bytes' own tokens, then one new token for each merge of two that are there.
json vocabulary(Bytes& bytes, Made& made, json& merges) {
  json vocab = json::object();
  const std::int64_t missing = bytes.integer(0, 3) == 0 ? bytes.integer(0, 255) : -1;
  for (int b = 0; b < 256; ++b) {
    const std::string token(1, static_cast<char>(b));
    made.tokens.push_back(token);
    if (b != missing) vocab[in_alphabet(token)] = b;
  }
  made.all_bytes = missing < 0;
  for (std::int64_t i = bytes.integer(0, 12); i > 0; --i) {
    const auto pick = [&] {
      const std::size_t recent = made.tokens.size() - 256;
      return bytes.flag() && recent > 0 ? made.tokens[256 + bytes.index(recent)]
                                        : made.tokens[bytes.byte()];
    };
    const std::string left = pick();
    const std::string right = pick();
    if (left.size() + right.size() > 40) continue;
    const auto known = std::find(made.tokens.begin(), made.tokens.end(), left + right);
    if (known == made.tokens.end()) {
      vocab[in_alphabet(left + right)] = made.tokens.size();
      made.tokens.push_back(left + right);
    }
    if (!made.ranks.emplace(std::pair(left, right), made.ranks.size()).second) continue;
    merges.push_back(json::array({in_alphabet(left), in_alphabet(right)}));
  }
  return vocab;
}

Made make_tokenizer(Bytes& bytes) {
  Made made;
  json merges = json::array();
  const json vocab = vocabulary(bytes, made, merges);
  json added = json::array();
  for (std::int64_t i = bytes.integer(0, 3); i > 0; --i) {
    added.push_back(added_token(bytes, 1000 + i, made));
  }
  const bool nfc = bytes.flag();
  const bool ignore_merges = bytes.integer(0, 3) == 0;
  if (nfc) made.exact = made.simple = false;
  if (ignore_merges) made.simple = false;
  const json root{
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nfc ? json{{"type", "NFC"}} : json()},
      {"pre_tokenizer", pre_tokenizer(bytes, made)},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}, {"ignore_merges", ignore_merges}}}};
  made.text = root.dump(-1, ' ', false, json::error_handler_t::replace);
  return made;
}

/// BPE by its definition: the lowest rank first, the leftmost of equals, until there is none.
std::vector<std::string> bpe(const std::string& text, const Made& made) {
  std::vector<std::string> parts;
  for (const char c : text) parts.emplace_back(1, c);
  for (;;) {
    std::optional<std::pair<std::size_t, std::size_t>> best;  // rank, place
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = made.ranks.find({parts[i], parts[i + 1]});
      if (rank == made.ranks.end()) continue;
      if (!best || rank->second < best->first) best = {rank->second, i};
    }
    if (!best) return parts;
    parts[best->second] += parts[best->second + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best->second) + 1);
  }
}

void check_decoding(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  for (const bool skip : {false, true}) {
    const auto text = tokenizer.decode(ids, skip);
    FUZZ_CHECK(text.ok(), text.status().message());
    FUZZ_CHECK(!engine::find_invalid_utf8(*text));
    engine::StreamingDetokenizer stream(tokenizer, skip);
    std::string streamed;
    for (const std::int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    FUZZ_CHECK(streamed == *text, "as a stream: ", streamed, "; at once: ", *text);
  }
}

void check_ids(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  for (const std::int32_t id : ids) {
    FUZZ_CHECK(id >= 0 && id < tokenizer.vocab_size(), "id ", id, " of ", tokenizer.vocab_size());
    std::string bytes;
    tokenizer.append_bytes(id, false, bytes);
    FUZZ_CHECK(!bytes.empty(), "id ", id, " has no token");
  }
}

/// Encodes, decodes, and holds both against what was made.
void check_text(const Tokenizer& tokenizer, const std::string& text, const Made* made) {
  const auto ids = tokenizer.encode(text);
  if (engine::find_invalid_utf8(text)) {
    check_refusal(ids.status(), {StatusCode::kInvalidArgument});
    return;
  }
  if (!ids.ok()) {
    check_refusal(ids.status(), {StatusCode::kNotFound, StatusCode::kResourceExhausted,
                                 StatusCode::kUnsupported});
    FUZZ_CHECK(made == nullptr || !made->simple || !made->all_bytes, ids.status().message());
    return;
  }
  check_ids(tokenizer, *ids);
  check_decoding(tokenizer, *ids);
  if (made == nullptr) return;
  if (made->exact) FUZZ_CHECK(*tokenizer.decode(*ids, false) == text);
  if (!made->simple) return;
  const std::vector<std::string> wanted = bpe(text, *made);
  FUZZ_CHECK(wanted.size() == ids->size(), wanted.size(), " tokens, found ", ids->size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    FUZZ_CHECK(made->tokens[static_cast<std::size_t>((*ids)[i])] == wanted[i], "token ", i);
  }
}

}  // namespace
}  // namespace hybridattn::fuzz

using namespace hybridattn::fuzz;
using hybridattn::StatusCode;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const bool raw = bytes.flag();
  const std::string text = bytes.text(bytes.byte());
  std::vector<std::int32_t> any_ids;
  for (std::int64_t i = bytes.integer(0, 8); i > 0; --i) any_ids.push_back(bytes.int32(0, 1100));
  Made made;
  if (!raw) made = make_tokenizer(bytes);
  const auto tokenizer = Tokenizer::parse(raw ? bytes.rest() : made.text);
  if (!tokenizer.ok()) {
    check_refusal(tokenizer.status(), {StatusCode::kDataLoss, StatusCode::kUnsupported});
    return 0;
  }
  check_text(*tokenizer, text, raw ? nullptr : &made);
  check_decoding(*tokenizer, any_ids);
  any_ids.push_back(-1);
  check_refusal(tokenizer->decode(any_ids, false).status(), {StatusCode::kOutOfRange});
  return 0;
}
