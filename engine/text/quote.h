// Makes text from outside fit for a one-line error message.
#pragma once

#include <string>
#include <string_view>

namespace hybridattn::engine {

/// `text` in double quotes. Quotes, backslashes, control characters and bytes of invalid UTF-8 are
/// escaped as \xNN; what is longer than 60 bytes is cut and ends in "...".
std::string in_quotes(std::string_view text);

}  // namespace hybridattn::engine
