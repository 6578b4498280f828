// What a gdn_decode_verify kernel takes.
#pragma once

#include "hybridattn/ops/gdn_decode_verify.h"
#include "src/ops/gdn_decode_params.h"

namespace hybridattn::ops {

struct GdnDecodeVerifyParams {
  GdnDecodeParams decode;
  VerifyRows verify;
  TensorView kept;       // [kept slots, v_heads, v_dim, k_dim]
  TensorView kept_conv;  // [kept slots, channels, width - 1]
};

/// Checks a call and fills `params`. Errors: as the op's.
Status check_gdn_decode_verify(const GdnDecodeVerifyArgs& args, GdnDecodeVerifyParams& params);

}  // namespace hybridattn::ops
