// Strict UTF-8: no surrogates, no overlong forms, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hybridattn::engine {

/// What `decode_utf8` found.
enum class Utf8State : std::uint8_t {
  kValid,
  kInvalid,     ///< No continuation of the text makes these bytes a character.
  kIncomplete,  ///< The text ends inside of what may still become a character.
};

struct Utf8Char {
  char32_t code_point;  ///< Only when kValid.
  std::uint8_t length;  ///< Bytes of the character, or of the maximal ill-formed part (1 to 3).
  Utf8State state;
};

/// Decodes the character at byte `pos`. The caller keeps `pos` below `text.size()`.
Utf8Char decode_utf8(std::string_view text, std::size_t pos) noexcept;

/// Decodes text that is known to be valid; advances `pos` past the character.
char32_t next_code_point(std::string_view text, std::size_t& pos) noexcept;

/// Appends a code point. The caller passes a scalar value (no surrogate, at most U+10FFFF).
void append_utf8(char32_t code_point, std::string& out);

/// The offset of the first byte that is not part of a valid character, if there is one.
std::optional<std::size_t> find_invalid_utf8(std::string_view text) noexcept;

/// Appends `bytes` to `out` with each maximal ill-formed part replaced by one U+FFFD, as Rust's
/// `from_utf8_lossy` and the WHATWG decoder do. An incomplete tail (at most 3 bytes) is replaced
/// when `last`, and left alone otherwise. Returns the number of bytes consumed.
std::size_t append_lossy(std::string_view bytes, bool last, std::string& out);

/// True when every byte is below 0x80.
bool is_ascii(std::string_view text) noexcept;

}  // namespace hybridattn::engine
