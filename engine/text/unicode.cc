#include "engine/text/unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <tuple>
#include <vector>

#include "engine/text/utf8.h"

namespace hybridattn::engine {
namespace {

using unicode_tables::Composition;
using unicode_tables::Decomposition;

constexpr char32_t kLeadBase = 0x1100;
constexpr char32_t kVowelBase = 0x1161;
constexpr char32_t kTrailBase = 0x11A7;  // one before the first trailing consonant
constexpr char32_t kSyllableBase = 0xAC00;
constexpr char32_t kLeadCount = 19;
constexpr char32_t kVowelCount = 21;
constexpr char32_t kTrailCount = 28;  // counts "no trailing consonant"
constexpr char32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

struct Unit {
  char32_t code_point;
  std::uint8_t combining_class;
};

bool is_syllable(char32_t c) { return c >= kSyllableBase && c < kSyllableBase + kSyllableCount; }

void append_syllable(char32_t syllable, std::vector<Unit>& out) {
  const char32_t index = syllable - kSyllableBase;
  out.push_back({kLeadBase + index / (kVowelCount * kTrailCount), 0});
  out.push_back({kVowelBase + index % (kVowelCount * kTrailCount) / kTrailCount, 0});
  if (index % kTrailCount != 0) out.push_back({kTrailBase + index % kTrailCount, 0});
}

/// Full canonical decomposition of one code point; the table holds single steps, at most 4 deep.
void append_decomposed(char32_t c, std::vector<Unit>& out) {
  if (is_syllable(c)) return append_syllable(c, out);
  const auto& record = code_point_record(c);
  if ((record.flags & unicode_tables::kDecomposes) == 0) {
    out.push_back({c, record.combining_class});
    return;
  }
  const Decomposition* begin = unicode_tables::kDecompositions;
  const Decomposition* end = begin + unicode_tables::kDecompositionsSize;
  const auto less = [](const Decomposition& entry, char32_t wanted) {
    return entry.code_point < wanted;
  };
  const Decomposition* entry = std::lower_bound(begin, end, c, less);
  append_decomposed(entry->first, out);
  if (entry->second != 0) append_decomposed(entry->second, out);
}

/// The Hangul syllable of lead + vowel or of lead-vowel + trail, or 0.
char32_t compose_hangul(char32_t first, char32_t second) {
  const bool lead = first >= kLeadBase && first < kLeadBase + kLeadCount;
  const bool vowel = second >= kVowelBase && second < kVowelBase + kVowelCount;
  if (lead && vowel) {
    const char32_t index = (first - kLeadBase) * kVowelCount + (second - kVowelBase);
    return kSyllableBase + index * kTrailCount;
  }
  const bool open = is_syllable(first) && (first - kSyllableBase) % kTrailCount == 0;
  const bool trail = second > kTrailBase && second < kTrailBase + kTrailCount;
  return open && trail ? first + (second - kTrailBase) : 0;
}

/// The primary composite of two code points, or 0.
char32_t compose(char32_t first, char32_t second) {
  if ((code_point_record(second).flags & unicode_tables::kNfcCheck) == 0) return 0;
  if (const char32_t syllable = compose_hangul(first, second)) return syllable;
  const Composition* begin = unicode_tables::kCompositions;
  const Composition* end = begin + unicode_tables::kCompositionsSize;
  const auto less = [](const Composition& entry, const std::pair<char32_t, char32_t>& wanted) {
    return std::tie(entry.first, entry.second) < std::tie(wanted.first, wanted.second);
  };
  const Composition* entry = std::lower_bound(begin, end, std::pair{first, second}, less);
  const bool found = entry != end && entry->first == first && entry->second == second;
  return found ? char32_t{entry->composite} : 0;
}

std::vector<Unit> decompose(std::string_view text) {
  std::vector<Unit> units;
  units.reserve(text.size());
  for (std::size_t pos = 0; pos < text.size();) {
    append_decomposed(next_code_point(text, pos), units);
  }
  return units;
}

/// Sorts each run of non-starters by combining class. A stable sort and no bubble sort: a run may
/// be as long as the text.
void reorder(std::vector<Unit>& units) {
  const auto starter = [](const Unit& unit) { return unit.combining_class == 0; };
  for (auto run = units.begin(); run != units.end();) {
    run = std::find_if_not(run, units.end(), starter);
    const auto end = std::find_if(run, units.end(), starter);
    if (end - run > 1) {
      std::stable_sort(run, end, [](const Unit& a, const Unit& b) {
        return a.combining_class < b.combining_class;
      });
    }
    run = end;
  }
}

/// Composes in place; the result is never longer than what has been read.
void recompose(std::vector<Unit>& units) {
  std::size_t size = 0;
  std::size_t starter = units.size();  // position of the last starter; units.size() means none yet
  for (const Unit unit : units) {
    const bool adjacent = starter + 1 == size;
    const bool reachable =
        starter < size && (adjacent || units[size - 1].combining_class < unit.combining_class);
    const char32_t composite = reachable ? compose(units[starter].code_point, unit.code_point) : 0;
    if (composite != 0) {
      units[starter].code_point = composite;
      continue;
    }
    if (unit.combining_class == 0) starter = size;
    units[size++] = unit;
  }
  units.resize(size);
}

}  // namespace

bool is_nfc_quick(std::string_view text) noexcept {
  if (is_ascii(text)) return true;
  std::uint8_t last_class = 0;
  for (std::size_t pos = 0; pos < text.size();) {
    const auto& record = code_point_record(next_code_point(text, pos));
    if ((record.flags & unicode_tables::kNfcCheck) != 0) return false;
    if (record.combining_class != 0 && record.combining_class < last_class) return false;
    last_class = record.combining_class;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  if (is_nfc_quick(text)) return std::string(text);
  std::vector<Unit> units = decompose(text);
  reorder(units);
  recompose(units);
  std::string out;
  out.reserve(text.size());
  for (const Unit& unit : units) append_utf8(unit.code_point, out);
  return out;
}

}  // namespace hybridattn::engine
