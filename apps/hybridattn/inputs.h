// Reading prompts: ids from text and JSON, texts from files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hybridattn/status.h"

namespace hybridattn::app {

/// A prompt as text or as ids.
struct Prompt {
  std::string place;  ///< the option, or the file and the line: what messages begin with
  std::optional<std::string> text;
  std::vector<std::int32_t> ids;
};

/// The bytes of a file; "-" = standard input. Errors: not_found with the system's reason.
Result<std::string> read_text(const std::string& path);

/// "1,2,3". Errors: invalid_argument, naming the piece that is no id.
Result<std::vector<std::int32_t>> parse_id_list(const std::string& option, const std::string& text);

/// A JSON list of ids, or an object with exactly one list. Errors: not_found, data_loss.
Result<std::vector<std::int32_t>> read_ids_file(const std::string& path);

/// One prompt a line; or, where the first line that is not blank begins with { or [, JSON lines: a
/// list of ids, or an object with either `prompt` or `prompt_ids` and no other key. Blank lines are
/// skipped. Errors: not_found, data_loss naming the line.
Result<std::vector<Prompt>> read_prompts_file(const std::string& path);

}  // namespace hybridattn::app
