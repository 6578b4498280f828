#include "engine/text/quote.h"

#include <algorithm>
#include <cstdint>

#include "engine/text/utf8.h"

namespace hybridattn::engine {
namespace {

constexpr std::size_t kMaxBytes = 60;

void append_escaped(std::string_view bytes, std::string& out) {
  constexpr char kDigits[] = "0123456789abcdef";
  for (const char c : bytes) {
    const auto byte = static_cast<std::uint8_t>(c);
    out += "\\x";
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
}

}  // namespace

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  std::size_t pos = 0;
  while (pos < std::min(text.size(), kMaxBytes)) {
    const Utf8Char found = decode_utf8(text, pos);
    const std::string_view bytes = text.substr(pos, found.length);
    const char32_t c = found.code_point;
    const bool plain = found.state == Utf8State::kValid && c >= 0x20 && !(c >= 0x7F && c < 0xA0) &&
                       c != U'"' && c != U'\\' && c != 0x2028 && c != 0x2029;
    if (plain) {
      out += bytes;
    } else {
      append_escaped(bytes, out);
    }
    pos += found.length;
  }
  return out + (pos < text.size() ? "\"..." : "\"");
}

}  // namespace hybridattn::engine
