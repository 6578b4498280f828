// Cuts text into the pieces that BPE works on: by hand for the patterns of the Qwen family (Unicode
// 16, linear time), by PCRE2 for any other one.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/text/pcre_splitter.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

/// Where the known split patterns differ.
struct ScanRules {
  bool marks_join_letters = false;  ///< Words are [\p{L}\p{M}]+ and not \p{L}+.
  std::size_t max_digits = 1;       ///< Numbers are \p{N}{1,max_digits}.
};

/// The rules of a known pattern: Qwen2 and Qwen3, Qwen3.5, and both with \p{N}{1,3}. The pattern is
/// compared as text; nothing for any other one.
std::optional<ScanRules> known_pattern(std::string_view pattern);

/// Appends the pieces of `text` to `pieces`, in order and without gaps. `text` is valid UTF-8 and
/// must outlive the pieces. Linear in the size of the text.
void scan_pieces(std::string_view text, const ScanRules& rules,
                 std::vector<std::string_view>& pieces);

/// The splitter that a tokenizer.json asks for. Immutable, so one object serves all threads.
class PreTokenizer {
 public:
  /// Leaves the text in one piece.
  PreTokenizer() = default;

  /// kDataLoss when the pattern is not a legal one for PCRE2.
  static Result<PreTokenizer> create(std::string_view pattern);

  /// Appends the non-empty pieces of `text`, matches and what lies between them ("Isolated"), to
  /// `pieces`. `text` is valid UTF-8 and must outlive them. kResourceExhausted when PCRE2 gives up.
  Status split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  std::optional<ScanRules> rules_;
  std::shared_ptr<const PcreSplitter> splitter_;
};

}  // namespace hybridattn::engine
