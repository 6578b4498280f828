// JSON of a checkpoint folder: small documents, read into a tree that hides nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "hybridattn/status.h"

namespace hybridattn::engine {

/// data_loss for malformed or truncated JSON, a NUL byte, a key given twice in one object, nesting
/// deeper than 32 and more than 4 million values. Throws nothing but std::bad_alloc.
Result<nlohmann::json> parse_json(std::string_view text);

/// The value of a key; null when `object` is no object or has no such key.
const nlohmann::json& json_at(const nlohmann::json& object, const std::string& key);

/// A value in a few words, for messages: one line, never long.
std::string json_brief(const nlohmann::json& value);

/// A key for messages: as it is where that is a plain name, or else in quotes, escaped and cut.
std::string key_text(std::string_view key);

/// The whole of a file. not_found when it cannot be read, data_loss when it is longer than
/// `max_bytes`. The message begins with the path.
Result<std::string> read_text_file(const std::filesystem::path& path, std::uintmax_t max_bytes);

/// A path for messages: control characters become '?', so a message stays one line.
std::string path_text(const std::filesystem::path& path);

/// The status with "PLACE: " before its message.
Status with_place(std::string_view place, const Status& status);

}  // namespace hybridattn::engine
