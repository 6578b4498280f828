// The alphabet of byte-level BPE: each byte is written as one printable character, so that a
// vocabulary of bytes fits into JSON strings. Bytes that print in Latin-1 stand for themselves, the
// others are U+0100 and up, in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hybridattn::engine {

/// The character for a byte.
char32_t byte_to_alphabet(std::uint8_t byte) noexcept;

/// The byte for a character of the alphabet, or -1 for any other code point.
int alphabet_to_byte(char32_t code_point) noexcept;

/// Appends `bytes`, written in the alphabet, as UTF-8.
void append_alphabet(std::string_view bytes, std::string& out);

/// Appends the bytes that `token` (valid UTF-8) stands for. A token with any character outside of
/// the alphabet stands for its own UTF-8 bytes, as in the ByteLevel decoder of `tokenizers`.
void append_token_bytes(std::string_view token, std::string& out);

}  // namespace hybridattn::engine
