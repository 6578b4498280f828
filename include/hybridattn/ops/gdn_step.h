// The gated delta rule for rows of one token: decode.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/gdn_args.h"

namespace hybridattn {

/// For each row (length 0 or 1) and value head, with float32 arithmetic and S in place:
///   S <- S diag(exp g);  u = beta (v - S k);  S <- S + u k^T;  o = S (scale q),
/// where g is one number a head, or one for each key channel. Source: Gated Delta Networks (Yang,
/// Kautz, Hatamizadeh 2024), eq. 10; Kimi Linear (2025) for g by channel.
/// Errors: invalid_argument, out_of_range, unsupported; nothing is written on an error.
HYBRIDATTN_API Status gdn_step(Context& context, const GdnArgs& args);

}  // namespace hybridattn
