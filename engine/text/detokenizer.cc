#include "engine/text/detokenizer.h"

#include "engine/text/utf8.h"

namespace hybridattn::engine {

std::string StreamingDetokenizer::push(std::int32_t id) {
  std::string text;
  tokenizer_->append_bytes(id, skip_special_, pending_);
  pending_.erase(0, append_lossy(pending_, /*last=*/false, text));
  return text;
}

std::string StreamingDetokenizer::finish() {
  std::string text;
  append_lossy(pending_, /*last=*/true, text);
  pending_.clear();
  return text;
}

}  // namespace hybridattn::engine
