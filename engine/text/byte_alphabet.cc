#include "engine/text/byte_alphabet.h"

#include <array>

#include "engine/text/utf8.h"

namespace hybridattn::engine {
namespace {

constexpr std::size_t kHighest = 0x143;  // the last character of the alphabet

struct Alphabet {
  std::array<char32_t, 256> of_byte{};
  std::array<std::int16_t, kHighest + 1> to_byte{};
};

constexpr bool prints(std::size_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.to_byte.fill(-1);
  char32_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char32_t c = prints(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.of_byte[byte] = c;
    alphabet.to_byte[c] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.to_byte[kHighest] == 0xAD);

}  // namespace

char32_t byte_to_alphabet(std::uint8_t byte) noexcept { return kAlphabet.of_byte[byte]; }

int alphabet_to_byte(char32_t code_point) noexcept {
  return code_point <= kHighest ? kAlphabet.to_byte[code_point] : -1;
}

void append_alphabet(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) {
    append_utf8(byte_to_alphabet(static_cast<std::uint8_t>(byte)), out);
  }
}

void append_token_bytes(std::string_view token, std::string& out) {
  const std::size_t start = out.size();
  for (std::size_t pos = 0; pos < token.size();) {
    const int byte = alphabet_to_byte(next_code_point(token, pos));
    if (byte < 0) {
      out.resize(start);
      out += token;
      return;
    }
    out += static_cast<char>(byte);
  }
}

}  // namespace hybridattn::engine
