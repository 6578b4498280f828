#include "apps/hybridattn/inputs.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "engine/checkpoint/json_document.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::app {
namespace {

using nlohmann::json;

/// A value for a message. Never its whole text: that may be long, and is nested as the file likes.
std::string brief(const json& value) {
  if (value.is_number()) return value.dump();
  return concat("of type ", value.type_name());
}

Result<std::vector<std::int32_t>> ids_of(const std::string& where, const json& list) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const json& item = list[i];
    if (!item.is_number_integer() || item < 0 || item > std::numeric_limits<std::int32_t>::max()) {
      return data_loss(where, ": element ", i, " is ", brief(item), ", must be a token id");
    }
    ids.push_back(item.get<std::int32_t>());
  }
  return ids;
}

Result<json> parse_json(const std::string& where, const std::string& text) {
  Result<json> value = engine::parse_json(text);
  if (!value.ok()) return engine::with_place(where, value.status());
  return value;
}

/// What is not known may be meant to change the run, say the number of tokens.
Status check_keys(const std::string& where, const json& object) {
  for (const auto& [key, value] : object.items()) {
    if (key == "prompt" || key == "prompt_ids") continue;
    return data_loss(where, ": key ", engine::key_text(key),
                     " is unknown, must be prompt or prompt_ids");
  }
  if (object.size() < 2) return {};
  return data_loss(where, ": has both prompt and prompt_ids, must have one of them");
}

Result<Prompt> prompt_of(const std::string& where, const std::string& line) {
  HYBRIDATTN_ASSIGN(const json value, parse_json(where, line));
  if (value.is_object()) HYBRIDATTN_TRY(check_keys(where, value));
  Prompt prompt{where, {}, {}};
  const json& text = engine::json_at(value, "prompt");
  const json& list = value.is_array() ? value : engine::json_at(value, "prompt_ids");
  if (list.is_array()) {
    HYBRIDATTN_ASSIGN(prompt.ids, ids_of(where, list));
    return prompt;
  }
  if (text.is_string()) {
    prompt.text = text.get<std::string>();
    return prompt;
  }
  return data_loss(where,
                   ": must be a list of ids, or an object with \"prompt\" (text) or "
                   "\"prompt_ids\" (list)");
}

}  // namespace

Result<std::string> read_text(const std::string& path) {
  if (path == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  // Streams of the C library say why they fail; a folder fails at the first read.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             std::fclose);
  std::string text;
  std::array<char, 65536> block;
  for (std::size_t count = block.size(); file != nullptr && count == block.size();) {
    count = std::fread(block.data(), 1, block.size(), file.get());
    text.append(block.data(), count);
  }
  if (file != nullptr && std::ferror(file.get()) == 0) return text;
  const int code = errno;
  return error(StatusCode::kNotFound, path,
               ": cannot be read: ", std::generic_category().message(code));
}

Result<std::vector<std::int32_t>> parse_id_list(const std::string& option,
                                                const std::string& text) {
  std::vector<std::int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    while (at != end && *at == ' ') ++at;
    std::int32_t id = -1;
    const auto parsed = std::from_chars(at, end, id);
    const char* stop = parsed.ptr;
    while (stop != end && *stop == ' ') ++stop;
    if (parsed.ec != std::errc() || id < 0 || (stop != end && *stop != ',')) {
      const auto comma = std::string_view(at, static_cast<std::size_t>(end - at)).find(',');
      return invalid_argument(
          option, ": \"", std::string_view(at, static_cast<std::size_t>(end - at)).substr(0, comma),
          "\" is no token id, must be ids as in 1,2,3");
    }
    ids.push_back(id);
    if (stop == end) return ids;
    at = stop + 1;
  }
}

Result<std::vector<std::int32_t>> read_ids_file(const std::string& path) {
  HYBRIDATTN_ASSIGN(const std::string text, read_text(path));
  HYBRIDATTN_ASSIGN(const json value, parse_json(path, text));
  if (value.is_array()) return ids_of(path, value);
  const json* list = nullptr;
  std::size_t lists = 0;
  if (value.is_object()) {
    for (const json& member : value) {
      if (!member.is_array()) continue;
      list = &member;
      ++lists;
    }
  }
  if (lists != 1) {
    return data_loss(path, ": has ", lists,
                     " lists, must be a JSON list of ids or an object with one list");
  }
  return ids_of(path, *list);
}

Result<std::vector<Prompt>> read_prompts_file(const std::string& path) {
  HYBRIDATTN_ASSIGN(const std::string text, read_text(path));
  std::vector<Prompt> prompts;
  std::optional<bool> jsonl;
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::size_t first = line.find_first_not_of(" \t");
    if (first == std::string::npos) continue;
    if (!jsonl.has_value()) jsonl = line[first] == '{' || line[first] == '[';
    const std::string place = concat(path, ": line ", number);
    if (*jsonl) {
      HYBRIDATTN_ASSIGN(Prompt prompt, prompt_of(place, line));
      prompts.push_back(std::move(prompt));
    } else {
      prompts.push_back(Prompt{place, line, {}});
    }
  }
  if (prompts.empty()) return data_loss(path, ": has no prompt, must have at least one line");
  return prompts;
}

}  // namespace hybridattn::app
