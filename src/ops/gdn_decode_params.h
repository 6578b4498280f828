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

}  // namespace hybridattn::ops
