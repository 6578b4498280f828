#include "engine/text/utf8.h"

#include <cstring>

namespace hybridattn::engine {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// What a lead byte announces: the length and the allowed range of the second byte. The range is
/// what keeps out overlong forms, surrogates and values above U+10FFFF (table 3-7 of the standard).
struct Lead {
  std::uint8_t length;  // 0: not a lead byte
  std::uint8_t second_min;
  std::uint8_t second_max;
};

constexpr Lead lead_of(std::uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

std::uint8_t byte_at(std::string_view text, std::size_t pos) {
  return static_cast<std::uint8_t>(text[pos]);
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, std::size_t pos) noexcept {
  const std::uint8_t first = byte_at(text, pos);
  const Lead lead = lead_of(first);
  if (lead.length == 1) return {first, 1, Utf8State::kValid};
  if (lead.length == 0) return {0, 1, Utf8State::kInvalid};
  char32_t code_point = first & (0x7Fu >> lead.length);
  for (std::uint8_t i = 1; i < lead.length; ++i) {
    if (pos + i == text.size()) return {0, i, Utf8State::kIncomplete};
    const std::uint8_t byte = byte_at(text, pos + i);
    const std::uint8_t low = i == 1 ? lead.second_min : std::uint8_t{0x80};
    const std::uint8_t high = i == 1 ? lead.second_max : std::uint8_t{0xBF};
    if (byte < low || byte > high) return {0, i, Utf8State::kInvalid};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {code_point, lead.length, Utf8State::kValid};
}

char32_t next_code_point(std::string_view text, std::size_t& pos) noexcept {
  const char32_t first = byte_at(text, pos);
  if (first < 0x80) {
    ++pos;
    return first;
  }
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  char32_t code_point = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    code_point = (code_point << 6) | (byte_at(text, pos + i) & 0x3Fu);
  }
  pos += length;
  return code_point;
}

void append_utf8(char32_t code_point, std::string& out) {
  const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  const auto tail = [&](int shift) { put(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    return tail(0);
  }
  if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    tail(6);
    return tail(0);
  }
  put(0xF0 | (code_point >> 18));
  tail(12);
  tail(6);
  tail(0);
}

bool is_ascii(std::string_view text) noexcept {
  std::size_t pos = 0;
  for (; pos + 8 <= text.size(); pos += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + pos, sizeof word);
    if ((word & 0x8080808080808080u) != 0) return false;
  }
  for (; pos < text.size(); ++pos) {
    if (byte_at(text, pos) >= 0x80) return false;
  }
  return true;
}

std::optional<std::size_t> find_invalid_utf8(std::string_view text) noexcept {
  std::size_t pos = 0;
  while (pos < text.size()) {
    if (byte_at(text, pos) < 0x80) {
      ++pos;
      continue;
    }
    const Utf8Char found = decode_utf8(text, pos);
    if (found.state != Utf8State::kValid) return pos;
    pos += found.length;
  }
  return std::nullopt;
}

std::size_t append_lossy(std::string_view bytes, bool last, std::string& out) {
  std::size_t pos = 0;
  while (pos < bytes.size()) {
    const Utf8Char found = decode_utf8(bytes, pos);
    if (found.state == Utf8State::kValid) {
      out += bytes.substr(pos, found.length);
    } else if (found.state == Utf8State::kInvalid || last) {
      out += kReplacement;
    } else {
      return pos;
    }
    pos += found.length;
  }
  return pos;
}

}  // namespace hybridattn::engine
