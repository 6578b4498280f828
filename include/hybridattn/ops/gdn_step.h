// The gated delta rule for rows of one token: decode.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/gdn_args.h"

namespace hybridattn {

/// For each row (length 0 or 1) and value head, with float32 arithmetic and S in place:
///   S <- exp(g) S;  u = beta (v - S k);  S <- S + u k^T;  o = S (scale q).
/// Source: Gated Delta Networks (Yang, Kautz, Hatamizadeh 2024), eq. 10.
/// Errors: invalid_argument, out_of_range, unsupported; nothing is written on an error.
HYBRIDATTN_API Status gdn_step(Context& context, const GdnArgs& args);

}  // namespace hybridattn
