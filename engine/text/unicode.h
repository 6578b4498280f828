// Character classes and NFC, as Hugging Face `tokenizers` sees them: classes of Unicode 16, NFC of
// Unicode 9 (its normaliser uses older tables than its regular expressions). Code points assigned
// after version 9 are starters without decomposition here; see scripts/make_unicode_tables.py.
#pragma once

#include <string>
#include <string_view>

#include "engine/text/unicode_tables.h"

namespace hybridattn::engine {

/// The flags of unicode_tables.h for any code point, also for ones that are no characters.
inline const unicode_tables::CodePointRecord& code_point_record(char32_t code_point) noexcept {
  const std::size_t block = code_point / unicode_tables::kBlockLength;
  if (block >= unicode_tables::kBlockIndexSize) return unicode_tables::kRecords[0];
  const std::size_t base = unicode_tables::kBlockIndex[block] * unicode_tables::kBlockLength;
  const std::size_t offset = code_point % unicode_tables::kBlockLength;
  return unicode_tables::kRecords[unicode_tables::kBlocks[base + offset]];
}

/// Regex `\p{L}`.
inline bool is_letter(char32_t c) noexcept {
  return (code_point_record(c).flags & unicode_tables::kLetter) != 0;
}
/// Regex `\p{M}`.
inline bool is_mark(char32_t c) noexcept {
  return (code_point_record(c).flags & unicode_tables::kMark) != 0;
}
/// Regex `\p{N}`.
inline bool is_number(char32_t c) noexcept {
  return (code_point_record(c).flags & unicode_tables::kNumber) != 0;
}
/// Regex `\s`: property White_Space.
inline bool is_white_space(char32_t c) noexcept {
  return (code_point_record(c).flags & unicode_tables::kSpace) != 0;
}
/// Regex `\w` of UTS #18.
inline bool is_word(char32_t c) noexcept {
  return (code_point_record(c).flags & unicode_tables::kWord) != 0;
}

/// Simple case folding, as far as the letters of English contractions need it: A-Z, and U+017F
/// (long s), which folds to `s`. No other code point folds to a letter of 's 't 're 've 'm 'll 'd.
inline char32_t fold_contraction_letter(char32_t c) noexcept {
  if (c >= U'A' && c <= U'Z') return c + (U'a' - U'A');
  return c == U'\u017F' ? U's' : c;
}

/// True when the quick check alone proves that the text is in NFC. False means "not known".
/// `text` is valid UTF-8.
bool is_nfc_quick(std::string_view text) noexcept;

/// The text in normalisation form C. `text` is valid UTF-8. Time is O(n log n) at worst.
std::string to_nfc(std::string_view text);

}  // namespace hybridattn::engine
