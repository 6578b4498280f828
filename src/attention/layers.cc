#include "hybridattn/layers.h"

namespace hybridattn {

std::string_view attention_type_name(AttentionType type) noexcept {
  switch (type) {
    case AttentionType::kDecoder: return "decoder";
    case AttentionType::kDecoderBidirectional: return "decoder_bidirectional";
    case AttentionType::kEncoderOnly: return "encoder_only";
  }
  return "unknown";
}

}  // namespace hybridattn
