// What a gdn_decode kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/gdn_decode.h"

namespace hybridattn::ops {

struct GdnDecodeParams {
  GdnDecodeArgs args;
  std::int64_t v_heads;
  std::int64_t k_dim;
  std::int64_t v_dim;
  std::int64_t width;  // taps
  float scale;         // on q
};

/// Checks a call, whose rows have at most `max_length` tokens, and fills `params`. Errors:
/// invalid_argument, out_of_range, unsupported.
Status check_gdn_decode(const char* op, const GdnDecodeArgs& args, std::int64_t max_length,
                        GdnDecodeParams& params);

}  // namespace hybridattn::ops
