// Typed reading of one object of a config file: each getter checks the form and the range, and its
// error names the place, the field, the value found and the value wanted. Null counts as missing.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "hybridattn/status.h"

namespace hybridattn::engine {

/// Inclusive bounds of an integer.
struct IntRange {
  std::int64_t least;
  std::int64_t most;
};

class ConfigFields {
 public:
  /// `object` must outlive this; `place` is a file name, or a file name and a section.
  ConfigFields(const nlohmann::json& object, std::string place)
      : object_(&object), place_(std::move(place)) {}

  const nlohmann::json& at(const std::string& key) const;
  bool has(const std::string& key) const { return !at(key).is_null(); }
  const std::string& place() const { return place_; }

  /// data_loss when the field is missing, no integer, or out of range.
  Result<std::int32_t> require_int(const std::string& key, IntRange range) const;
  /// As above; `fallback` when the field is missing.
  Result<std::int32_t> int_or(const std::string& key, std::int32_t fallback, IntRange range) const;
  /// A finite number, integer or not.
  Result<double> number_or(const std::string& key, double fallback) const;
  Result<bool> bool_or(const std::string& key, bool fallback) const;
  Result<std::string> string_or(const std::string& key, std::string_view fallback) const;
  /// One integer or a list of them; empty when the field is missing.
  Result<std::vector<std::int32_t>> ints(const std::string& key, IntRange range) const;

  /// unsupported when the field has another boolean than `only`; missing is fine.
  Status require_bool(const std::string& key, bool only) const;
  /// The same for a string and the list of those that will do.
  Status require_choice(const std::string& key,
                        std::initializer_list<std::string_view> choices) const;

  // Errors about a field. `key` may be any text of the file; it is quoted where it's no plain name.
  /// data_loss for a field of the wrong form or value.
  Status wrong(std::string_view key, std::string_view wanted) const;
  /// unsupported for a value that is legal, but not here.
  Status unsupported(std::string_view key, std::string_view wanted) const;

 private:
  Result<std::int32_t> as_int(const nlohmann::json& value, const std::string& label,
                              IntRange range) const;
  std::string found(std::string_view key) const;

  const nlohmann::json* object_;
  std::string place_;
};

}  // namespace hybridattn::engine
