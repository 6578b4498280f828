#include "apps/hybridattn/inputs.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

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
  json value = json::parse(text, nullptr, false);
  if (value.is_discarded()) return data_loss(where, ": is no valid JSON");
  return value;
}

Result<Prompt> prompt_of(const std::string& where, const std::string& line) {
  HYBRIDATTN_ASSIGN(const json value, parse_json(where, line));
  Prompt prompt;
  const json* list = value.is_array() ? &value : nullptr;
  if (value.is_object() && value.contains("prompt_ids")) list = &value["prompt_ids"];
  if (list != nullptr && list->is_array()) {
    HYBRIDATTN_ASSIGN(prompt.ids, ids_of(where, *list));
    return prompt;
  }
  if (value.is_object() && value.contains("prompt") && value["prompt"].is_string()) {
    prompt.text = value["prompt"].get<std::string>();
    return prompt;
  }
  return data_loss(where, ": must be a list of ids, or an object with \"prompt\" (text) or "
                   "\"prompt_ids\" (list)");
}

}  // namespace

Result<std::string> read_text(const std::string& path) {
  if (path == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return error(StatusCode::kNotFound, path, ": is a folder, must be a file");
  }
  std::ifstream file(path, std::ios::binary);
  std::string text;
  if (file) text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (!file) return error(StatusCode::kNotFound, path, ": cannot be read, must be a file");
  return text;
}

Result<std::vector<std::int32_t>> parse_id_list(const std::string& option, const std::string& text) {
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
      return invalid_argument(option, ": \"",
                              std::string_view(at, static_cast<std::size_t>(end - at)).substr(0, comma),
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
    if (*jsonl) {
      HYBRIDATTN_ASSIGN(Prompt prompt, prompt_of(concat(path, ": line ", number), line));
      prompts.push_back(std::move(prompt));
    } else {
      prompts.push_back(Prompt{line, {}});
    }
  }
  if (prompts.empty()) return data_loss(path, ": has no prompt, must have at least one line");
  return prompts;
}

}  // namespace hybridattn::app
