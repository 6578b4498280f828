#include "engine/checkpoint/config_fields.h"

#include <algorithm>
#include <cmath>

#include "engine/checkpoint/json_document.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxListLength = 65536;

/// True for an integer inside of the range. Unsigned numbers above INT64_MAX are in no range.
bool in_range(const json& value, IntRange range) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) return false;
  const auto number = value.get<std::int64_t>();
  return number >= range.least && number <= range.most;
}

}  // namespace

const json& ConfigFields::at(const std::string& key) const { return json_at(*object_, key); }

std::string ConfigFields::found(std::string_view key) const {
  const std::string name(key);
  if (!object_->contains(name)) return "found nothing";
  return concat("found ", json_brief(at(name)));
}

Status ConfigFields::wrong(std::string_view key, std::string_view wanted) const {
  return data_loss(place_, ": ", key_text(key), ": ", found(key), "; wanted ", wanted);
}

Status ConfigFields::unsupported(std::string_view key, std::string_view wanted) const {
  return error(StatusCode::kUnsupported, place_, ": ", key_text(key), ": ", found(key),
               "; supported: ", wanted);
}

Result<std::int32_t> ConfigFields::as_int(const json& value, const std::string& label,
                                          IntRange range) const {
  if (in_range(value, range)) return value.get<std::int32_t>();
  return data_loss(place_, ": ", label, ": found ", json_brief(value), "; wanted an integer, ",
                   range.least, " to ", range.most);
}

Result<std::int32_t> ConfigFields::require_int(const std::string& key, IntRange range) const {
  if (has(key)) return as_int(at(key), key, range);
  return wrong(key, concat("an integer, ", range.least, " to ", range.most));
}

Result<std::int32_t> ConfigFields::int_or(const std::string& key, std::int32_t fallback,
                                          IntRange range) const {
  if (!has(key)) return fallback;
  return as_int(at(key), key, range);
}

Result<double> ConfigFields::number_or(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_number()) return wrong(key, "a number");
  const auto number = at(key).get<double>();
  if (!std::isfinite(number)) return wrong(key, "a finite number");
  return number;
}

Result<bool> ConfigFields::bool_or(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_boolean()) return wrong(key, "true or false");
  return at(key).get<bool>();
}

Result<std::string> ConfigFields::string_or(const std::string& key,
                                            std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  if (!at(key).is_string()) return wrong(key, "a string");
  return at(key).get<std::string>();
}

Result<std::vector<std::int32_t>> ConfigFields::ints(const std::string& key, IntRange range) const {
  std::vector<std::int32_t> out;
  const json& value = at(key);
  if (value.is_null()) return out;
  const bool list = value.is_array();
  if (list && value.size() > kMaxListLength) {
    return wrong(key, concat("at most ", kMaxListLength, " entries"));
  }
  for (std::size_t i = 0; i < (list ? value.size() : 1); ++i) {
    const std::string label = list ? concat(key, "[", i, "]") : key;
    const Result<std::int32_t> entry = as_int(list ? value[i] : value, label, range);
    if (!entry.ok()) return entry.status();
    out.push_back(*entry);
  }
  return out;
}

Status ConfigFields::require_bool(const std::string& key, bool only) const {
  const Result<bool> value = bool_or(key, only);
  if (!value.ok()) return value.status();
  if (*value != only) return unsupported(key, only ? "true" : "false");
  return {};
}

Status ConfigFields::require_choice(const std::string& key,
                                    std::initializer_list<std::string_view> choices) const {
  const Result<std::string> value = string_or(key, *choices.begin());
  if (!value.ok()) return value.status();
  if (std::find(choices.begin(), choices.end(), *value) != choices.end()) return {};
  std::string list;
  for (const std::string_view choice : choices) list += concat(list.empty() ? "" : ", ", choice);
  return unsupported(key, list);
}

}  // namespace hybridattn::engine
