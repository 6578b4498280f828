// Text of a growing sequence of tokens, given out as soon as its characters are complete.
#pragma once

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace hybridattn::engine {

/// One stream. The results of all `push` and the `finish` joined are what `Tokenizer::decode` gives
/// for all ids. Borrows the tokenizer, which must outlive it. Not for two threads at once.
class StreamingDetokenizer {
 public:
  StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  /// The text that the token completes: often one word, empty while a character lacks bytes. Ids
  /// without a token, negative ones too, add nothing.
  std::string push(std::int32_t id);

  /// What is left as U+FFFD, or nothing. The stream is then empty and may be used again.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the bytes of an incomplete character, at most 3
};

}  // namespace hybridattn::engine
