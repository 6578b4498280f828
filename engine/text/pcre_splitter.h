// Splits text by a regular expression of PCRE2 (JIT compiled where the platform allows).
//
// A gap to know: PCRE2 10.42 has the character classes of Unicode 14, Hugging Face `tokenizers`
// those of version 16, so text with characters assigned since may be cut elsewhere. PCRE2's `\s`
// also takes U+180E.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "hybridattn/status.h"

namespace hybridattn::engine {

/// A compiled pattern. Immutable after `create`; `split` may run on many threads at once.
class PcreSplitter {
 public:
  /// kDataLoss when PCRE2 refuses the pattern; the message has its reason and the offset.
  static Result<PcreSplitter> create(std::string_view pattern);

  /// Appends the matches and the text between them, in order and without empty pieces. `text` is
  /// valid UTF-8 and must outlive the pieces. kResourceExhausted when the match, depth, heap or JIT
  /// stack limit of PCRE2 is reached; `pieces` then holds what was found before.
  Status split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  explicit PcreSplitter(std::shared_ptr<const void> code) : code_(std::move(code)) {}

  std::shared_ptr<const void> code_;  // a pcre2_code; its type stays out of this header
};

}  // namespace hybridattn::engine
