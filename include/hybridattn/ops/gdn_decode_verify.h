// A whole Gated DeltaNet layer for drafted tokens, every state kept.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/gdn_decode.h"
#include "hybridattn/ops/verify_rows.h"

namespace hybridattn {

struct GdnDecodeVerifyArgs {
  GdnDecodeArgs decode;  ///< rows of any length; `state` and `conv_state` are only read
  VerifyRows verify;
  TensorView kept{};       ///< [kept slots, HV, V, K], the dtype of `state`
  TensorView kept_conv{};  ///< [kept slots, C, W-1], the dtype of `conv_state`
};

/// `gdn_decode` for one token after the other, each from the state and the window of the token that
/// it follows; both after it go to its kept slots, the pools stay as they are. Copying those over
/// the row's gives the bits that decoding the tokens up to it would have given. Errors: as
/// gdn_decode and gdn_verify; nothing is written on an error.
HYBRIDATTN_API Status gdn_decode_verify(Context& context, const GdnDecodeVerifyArgs& args);

}  // namespace hybridattn
