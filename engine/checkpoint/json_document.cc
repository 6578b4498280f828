#include "engine/checkpoint/json_document.h"

#include <algorithm>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/text/quote.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxValues = 4'000'000;

/// Builds the tree from the parser's events. nlohmann's own builder keeps the last of two equal
/// keys without a word, and a file that says two things must not be read as saying one.
class TreeBuilder : public nlohmann::json_sax<json> {
 public:
  Status status;
  json root;

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return add(value) != nullptr;
  }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return fail("found binary data; wanted JSON text"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    if (open_.back()->contains(value)) {
      return fail(concat("key ", in_quotes(value), ": found twice in one object; wanted once"));
    }
    key_ = std::move(value);
    return true;
  }

  /// `position` counts the bytes read: the last of them, from 0, is the one that doesn't fit.
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return fail(concat("malformed JSON at byte ", position - std::min<std::size_t>(position, 1)));
  }

 private:
  bool fail(std::string_view message) {
    if (status.ok()) status = data_loss(message);
    return false;
  }

  json* add(json value) {
    if (++values_ > kMaxValues) {
      fail(concat("found more than ", kMaxValues, " values; wanted at most that many"));
      return nullptr;
    }
    if (open_.empty()) return &(root = std::move(value));
    json& parent = *open_.back();
    if (!parent.is_array()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  bool open(json container) {
    if (open_.size() == kMaxDepth) {
      return fail(concat("found more than ", kMaxDepth, " nested objects and arrays"));
    }
    json* added = add(std::move(container));
    if (added != nullptr) open_.push_back(added);
    return added != nullptr;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<json*> open_;  // open containers; a parent doesn't change while a child is open
  std::string key_;          // the last key read
  std::size_t values_ = 0;
};

}  // namespace

Result<json> parse_json(std::string_view text) {
  // The parser takes a NUL for the end and would leave what follows unread.
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos) {
    return data_loss("malformed JSON: found a NUL at byte ", nul, "; wanted text");
  }
  TreeBuilder builder;
  const bool read = json::sax_parse(text.begin(), text.end(), &builder);
  if (!builder.status.ok()) return builder.status;
  if (!read) return data_loss("malformed JSON");
  return std::move(builder.root);
}

const json& json_at(const json& object, const std::string& key) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string json_brief(const json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  if (value.is_object()) return concat("an object of ", value.size());
  if (value.is_array()) return concat("an array of ", value.size());
  return value.dump();
}

std::string key_text(std::string_view key) {
  std::string quoted = in_quotes(key);
  return quoted.size() == key.size() + 2 ? std::string(key) : quoted;
}

Result<std::string> read_text_file(const std::filesystem::path& path, std::uintmax_t max_bytes) {
  std::error_code code;
  const std::uintmax_t size = std::filesystem::file_size(path, code);
  if (code) {
    return error(StatusCode::kNotFound, path_text(path), ": can't read it: ", code.message());
  }
  if (size > max_bytes) {
    return data_loss(path_text(path), ": found ", size, " bytes; wanted at most ", max_bytes);
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(size))) {
    return error(StatusCode::kNotFound, path_text(path), ": can't read its ", size, " bytes");
  }
  return text;
}

std::string path_text(const std::filesystem::path& path) {
  std::string text = path.string();
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text;
}

Status with_place(std::string_view place, const Status& status) {
  if (status.ok()) return status;
  return error(status.code(), place, ": ", status.message());
}

}  // namespace hybridattn::engine
