#include "engine/text/tokenizer_json.h"

#include <exception>
#include <fstream>
#include <system_error>
#include <utility>

#include "engine/text/json_reader.h"
#include "engine/text/quote.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{64} << 20;
// The pattern of GPT-2, which a lone ByteLevel pre-tokeniser means by use_regex.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

const json kNull;

/// The value of a key, or null.
const json& at(const json& object, const char* key) {
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

/// The "type" of a section, or an empty string.
std::string type_of(const json& section) {
  const json& type = at(section, "type");
  return type.is_string() ? type.get<std::string>() : std::string();
}

/// A value in short, for messages.
std::string brief(const json& value) {
  const std::string type = type_of(value);
  if (!type.empty()) return concat("type ", in_quotes(type));
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  if (value.is_object()) return "an object without a type";
  if (value.is_array()) return concat("an array of ", value.size());
  return value.dump();
}

Status unsupported(std::string_view field, const json& found, std::string_view supported) {
  return error(StatusCode::kUnsupported, field, ": found ", brief(found),
               "; supported: ", supported);
}

Status wrong_form(std::string_view field, const json& found, std::string_view wanted) {
  return data_loss(field, ": found ", brief(found), "; wanted ", wanted);
}

/// A boolean that may be missing or null.
Result<bool> optional_bool(const json& object, const char* key, std::string_view where,
                           bool fallback) {
  const json& value = at(object, key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) return wrong_form(concat(where, ".", key), value, "true or false");
  return value.get<bool>();
}

/// Refuses a boolean that is true.
Status require_false(const json& object, const char* key, std::string_view where) {
  HYBRIDATTN_ASSIGN(const bool value, optional_bool(object, key, where, false));
  if (value) return unsupported(concat(where, ".", key), at(object, key), "false");
  return {};
}

/// An affix or token name that changes nothing when it is missing, null or empty.
Status require_empty(const json& object, const char* key, std::string_view where) {
  const json& value = at(object, key);
  if (value.is_null() || value == "") return {};
  return unsupported(concat(where, ".", key), value, "null or an empty string");
}

Status read_added_token(const json& entry, std::size_t index, AddedToken& out) {
  const std::string where = concat("added_tokens[", index, "]");
  if (!entry.is_object()) return wrong_form(where, entry, "an object");
  const json& id = at(entry, "id");
  if (!id.is_number_integer()) return wrong_form(concat(where, ".id"), id, "an integer");
  out.id = id.get<std::int64_t>();
  const json& content = at(entry, "content");
  if (!content.is_string()) return wrong_form(concat(where, ".content"), content, "a string");
  out.content = content.get<std::string>();
  const std::pair<const char*, bool*> flags[] = {{"single_word", &out.single_word},
                                                 {"lstrip", &out.lstrip},
                                                 {"rstrip", &out.rstrip},
                                                 {"normalized", &out.normalized},
                                                 {"special", &out.special}};
  for (const auto& [key, flag] : flags) {
    const json& value = at(entry, key);
    if (!value.is_boolean()) return wrong_form(concat(where, ".", key), value, "true or false");
    *flag = value.get<bool>();
  }
  return {};
}

Status read_added_tokens(const json& list, std::vector<AddedToken>& out) {
  if (list.is_null()) return {};
  if (!list.is_array()) return wrong_form("added_tokens", list, "an array");
  out.resize(list.size());
  for (std::size_t i = 0; i < list.size(); ++i)
    HYBRIDATTN_TRY(read_added_token(list[i], i, out[i]));
  return {};
}

/// Sets `nfc` when the section, or a part of its sequence, is NFC.
Status read_normalizer(const json& section, bool& nfc) {
  if (section.is_null()) return {};
  const std::string type = type_of(section);
  if (type == "NFC") {
    nfc = true;
    return {};
  }
  const json& parts = at(section, "normalizers");
  if (type != "Sequence") return unsupported("normalizer", section, "null, NFC, Sequence of NFC");
  if (!parts.is_array()) return wrong_form("normalizer.normalizers", parts, "an array");
  for (const json& part : parts) HYBRIDATTN_TRY(read_normalizer(part, nfc));
  return {};
}

Status read_split(const json& section, std::string_view where, TokenizerSpec& spec) {
  const json& behavior = at(section, "behavior");
  if (behavior != "Isolated")
    return unsupported(concat(where, ".behavior"), behavior, "\"Isolated\"");
  HYBRIDATTN_TRY(require_false(section, "invert", where));
  const json& pattern = at(section, "pattern");
  const json& regex = at(pattern, "Regex");
  if (!regex.is_string())
    return unsupported(concat(where, ".pattern"), pattern, "{\"Regex\": ...}");
  spec.split_pattern = regex.get<std::string>();
  return {};
}

/// `lone`: no Split comes before, so use_regex may stand for one.
Status read_byte_level(const json& section, std::string_view where, bool lone,
                       TokenizerSpec& spec) {
  HYBRIDATTN_TRY(require_false(section, "add_prefix_space", where));
  HYBRIDATTN_ASSIGN(const bool use_regex, optional_bool(section, "use_regex", where, true));
  if (!use_regex) return {};
  if (!lone) return unsupported(concat(where, ".use_regex"), true, "false after a Split");
  spec.split_pattern = kByteLevelPattern;
  return {};
}

Status read_pre_tokenizer(const json& section, TokenizerSpec& spec) {
  constexpr std::string_view kSupported =
      "ByteLevel, or Sequence of at most one Split and ByteLevel";
  if (type_of(section) == "ByteLevel") return read_byte_level(section, "pre_tokenizer", true, spec);
  const json& parts = at(section, "pretokenizers");
  if (type_of(section) != "Sequence") return unsupported("pre_tokenizer", section, kSupported);
  if (!parts.is_array() || parts.empty() || parts.size() > 2) {
    return unsupported("pre_tokenizer.pretokenizers", parts, kSupported);
  }
  const std::string last = concat("pre_tokenizer.pretokenizers[", parts.size() - 1, "]");
  if (type_of(parts.back()) != "ByteLevel") return unsupported(last, parts.back(), "ByteLevel");
  if (parts.size() == 2) {
    constexpr std::string_view kFirst = "pre_tokenizer.pretokenizers[0]";
    if (type_of(parts[0]) != "Split") return unsupported(kFirst, parts[0], "Split");
    HYBRIDATTN_TRY(read_split(parts[0], kFirst, spec));
  }
  return read_byte_level(parts.back(), last, parts.size() == 1, spec);
}

/// A template that is the sequence and nothing else.
Status check_template(const json& section) {
  const json& single = at(section, "single");
  if (!single.is_array()) return wrong_form("post_processor.single", single, "an array");
  for (const json& part : single) {
    if (!at(part, "Sequence").is_object()) {
      return error(StatusCode::kUnsupported, "post_processor.single: found ",
                   in_quotes(part.dump(-1, ' ', false, json::error_handler_t::replace)),
                   "; supported: a template without added tokens");
    }
  }
  if (single.size() != 1) return unsupported("post_processor.single", single, "one Sequence");
  return {};
}

/// Nothing to keep: a supported post-processor leaves the ids alone.
Status check_post_processor(const json& section) {
  const std::string type = type_of(section);
  if (section.is_null() || type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return check_template(section);
  const json& parts = at(section, "processors");
  if (type != "Sequence" || !parts.is_array()) {
    return unsupported("post_processor", section,
                       "null, ByteLevel, TemplateProcessing without added tokens");
  }
  for (const json& part : parts) HYBRIDATTN_TRY(check_post_processor(part));
  return {};
}

Status check_model(const json& model, TokenizerSpec& spec) {
  if (!model.is_object()) return wrong_form("model", model, "an object");
  if (type_of(model) != "BPE") return unsupported("model.type", at(model, "type"), "\"BPE\"");
  const json& dropout = at(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return unsupported("model.dropout", dropout, "null or 0");
  HYBRIDATTN_TRY(require_empty(model, "continuing_subword_prefix", "model"));
  HYBRIDATTN_TRY(require_empty(model, "end_of_word_suffix", "model"));
  HYBRIDATTN_TRY(require_false(model, "byte_fallback", "model"));
  const json& unk = at(model, "unk_token");
  if (!unk.is_null() && !unk.is_string())
    return wrong_form("model.unk_token", unk, "null or a string");
  spec.needs_all_bytes = unk.is_string();
  HYBRIDATTN_ASSIGN(spec.bpe.ignore_merges, optional_bool(model, "ignore_merges", "model", false));
  return {};
}

Status check_settings(const json& root) {
  if (!root.is_object()) return wrong_form("top level", root, "an object");
  const json& version = at(root, "version");
  if (!version.is_null() && version != "1.0") return unsupported("version", version, "\"1.0\"");
  for (const char* key : {"truncation", "padding"}) {
    if (!at(root, key).is_null()) return unsupported(key, at(root, key), "null");
  }
  const json& decoder = at(root, "decoder");
  if (type_of(decoder) != "ByteLevel") return unsupported("decoder", decoder, "ByteLevel");
  return check_post_processor(at(root, "post_processor"));
}

Result<TokenizerSpec> interpret(TokenizerTree tree) {
  TokenizerSpec spec;
  const json& root = tree.rest;
  if (!root.is_object()) return wrong_form("top level", root, "an object");
  spec.bpe = std::move(tree.bpe);
  HYBRIDATTN_TRY(check_model(at(root, "model"), spec));
  if (!tree.has_vocab)
    return wrong_form("model.vocab", at(at(root, "model"), "vocab"), "an object");
  if (!tree.has_merges)
    return wrong_form("model.merges", at(at(root, "model"), "merges"), "an array");
  HYBRIDATTN_TRY(check_settings(root));
  HYBRIDATTN_TRY(read_normalizer(at(root, "normalizer"), spec.nfc));
  HYBRIDATTN_TRY(read_pre_tokenizer(at(root, "pre_tokenizer"), spec));
  HYBRIDATTN_TRY(read_added_tokens(at(root, "added_tokens"), spec.added_tokens));
  return spec;
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_json(std::string_view text) {
  try {
    HYBRIDATTN_ASSIGN(TokenizerTree tree, read_tokenizer_tree(text));
    return interpret(std::move(tree));
  } catch (const std::exception& problem) {
    // The checks above leave nothing for nlohmann to throw; what is left is memory.
    return error(StatusCode::kResourceExhausted, "reading it failed: ", in_quotes(problem.what()));
  }
}

Result<TokenizerSpec> read_tokenizer_json(const std::filesystem::path& path) {
  std::error_code code;
  const std::uintmax_t size = std::filesystem::file_size(path, code);
  if (code) return error(StatusCode::kNotFound, "can't read it: ", code.message());
  if (size > kMaxFileBytes) {
    return data_loss("found ", size, " bytes; wanted at most ", kMaxFileBytes);
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(size))) {
    return error(StatusCode::kNotFound, "can't read its ", size, " bytes");
  }
  return parse_tokenizer_json(text);
}

}  // namespace hybridattn::engine
