#include "engine/text/pre_tokenizer.h"

#include <array>
#include <utility>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using unicode_tables::kLetter;
using unicode_tables::kMark;
using unicode_tables::kNumber;
using unicode_tables::kSpace;

struct KnownPattern {
  std::string_view text;
  ScanRules rules;
};

constexpr std::array kKnownPatterns = {
    KnownPattern{R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)re"
                 R"re( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re",
                 {false, 1}},
    KnownPattern{R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)re"
                 R"re( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re",
                 {true, 1}},
    KnownPattern{R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)re"
                 R"re( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re",
                 {false, 3}},
    KnownPattern{R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}|)re"
                 R"re( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re",
                 {true, 3}},
};

/// A character of the text with its class; `flags` is 0 and `end` is `begin` past the end of the
/// text.
struct Char {
  char32_t code_point;
  std::size_t end;  // byte after the character
  std::uint8_t flags;
  bool present;

  bool is(int classes) const { return (flags & classes) != 0; }
  bool is_newline() const { return code_point == U'\r' || code_point == U'\n'; }
};

/// Follows the alternatives of the pattern in their order. Each `match_*` returns the end of its
/// match at `pos`, or `pos` when it doesn't match. The alternatives back-track by one character at
/// most, or back to a place remembered on the way, so no run is read more than three times.
class Scanner {
 public:
  Scanner(std::string_view text, const ScanRules& rules)
      : text_(text), max_digits_(rules.max_digits),
        word_(rules.marks_join_letters ? kLetter | kMark : kLetter),
        not_symbol_(word_ | kNumber | kSpace) {}

  /// The end of the piece that starts at `pos`; never `pos` itself.
  std::size_t next(std::size_t pos) const {
    const Char first = at(pos);
    if (first.code_point == U'\'') {
      if (const std::size_t end = match_contraction(first.end)) return end;
    }
    if (const std::size_t end = match_word(first); end != 0) return end;
    if (first.is(kNumber)) return run_of_digits(first.end);
    if (const std::size_t end = match_symbols(first); end != 0) return end;
    return match_space(pos, first);
  }

 private:
  Char at(std::size_t pos) const {
    if (pos >= text_.size()) return {0, pos, 0, false};
    const char32_t c = next_code_point(text_, pos);
    return {c, pos, code_point_record(c).flags, true};
  }

  /// (?i:'s|'t|'re|'ve|'m|'ll|'d) after its apostrophe; 0 when it doesn't match.
  std::size_t match_contraction(std::size_t pos) const {
    const Char first = at(pos);
    if (!first.present) return 0;
    const char32_t a = fold_contraction_letter(first.code_point);
    if (a == U's' || a == U't' || a == U'm' || a == U'd') return first.end;
    const Char second = at(first.end);
    const char32_t b = fold_contraction_letter(second.code_point);
    const bool pair =
        (a == U'r' && b == U'e') || (a == U'v' && b == U'e') || (a == U'l' && b == U'l');
    return pair ? second.end : 0;
  }

  /// [^\r\n\p{L}\p{N}]?WORD+; 0 when it doesn't match.
  std::size_t match_word(const Char& first) const {
    if (first.is(word_)) return run_of(word_, first.end);
    if (first.is_newline() || first.is(kNumber)) return 0;
    const Char second = at(first.end);
    return second.is(word_) ? run_of(word_, second.end) : 0;
  }

  std::size_t run_of_digits(std::size_t pos) const {
    for (std::size_t count = 1; count < max_digits_; ++count) {
      const Char c = at(pos);
      if (!c.is(kNumber)) break;
      pos = c.end;
    }
    return pos;
  }

  /// ` ?SYMBOL+[\r\n]*`; 0 when it doesn't match.
  std::size_t match_symbols(const Char& first) const {
    Char c = first.code_point == U' ' ? at(first.end) : first;
    if (!is_symbol(c)) return 0;
    std::size_t end = c.end;
    for (c = at(end); is_symbol(c); c = at(end)) end = c.end;
    for (; c.present && c.is_newline(); c = at(end)) end = c.end;
    return end;
  }

  /// `\s*[\r\n]+|\s+(?!\S)|\s+`, where `first` is white space.
  std::size_t match_space(std::size_t pos, const Char& first) const {
    std::size_t last = pos;         // where the last character of the run starts
    std::size_t after_newline = 0;  // the end of the last newline of the run
    std::size_t end = first.end;
    Char c = first;
    while (true) {
      if (c.is_newline()) after_newline = end;
      c = at(end);
      if (!c.is(kSpace)) break;
      last = end;
      end = c.end;
    }
    if (after_newline != 0) return after_newline;
    // The look-ahead gives the last character of the run to what follows, if it leaves something.
    return c.present && last != pos ? last : end;
  }

  std::size_t run_of(int classes, std::size_t pos) const {
    for (Char c = at(pos); c.is(classes); c = at(pos)) pos = c.end;
    return pos;
  }

  bool is_symbol(const Char& c) const { return c.present && !c.is(not_symbol_); }

  std::string_view text_;
  std::size_t max_digits_;
  int word_;
  int not_symbol_;
};

}  // namespace

std::optional<ScanRules> known_pattern(std::string_view pattern) {
  for (const KnownPattern& known : kKnownPatterns) {
    if (known.text == pattern) return known.rules;
  }
  return std::nullopt;
}

void scan_pieces(std::string_view text, const ScanRules& rules,
                 std::vector<std::string_view>& pieces) {
  const Scanner scanner(text, rules);
  for (std::size_t pos = 0; pos < text.size();) {
    const std::size_t end = scanner.next(pos);
    pieces.push_back(text.substr(pos, end - pos));
    pos = end;
  }
}

Result<PreTokenizer> PreTokenizer::create(std::string_view pattern) {
  PreTokenizer made;
  made.rules_ = known_pattern(pattern);
  if (made.rules_) return made;
  HYBRIDATTN_ASSIGN(PcreSplitter splitter, PcreSplitter::create(pattern));
  made.splitter_ = std::make_shared<const PcreSplitter>(std::move(splitter));
  return made;
}

Status PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  if (rules_) {
    scan_pieces(text, *rules_, pieces);
    return {};
  }
  if (splitter_) return splitter_->split(text, pieces);
  if (!text.empty()) pieces.push_back(text);
  return {};
}

}  // namespace hybridattn::engine
