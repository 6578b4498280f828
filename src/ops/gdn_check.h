// The checks that gdn_step and gdn_prefill share.
#pragma once

#include "src/core/arg_check.h"
#include "src/ops/gdn_params.h"

namespace hybridattn::ops {

/// Shapes, dtypes, head ratio, head dims and rows; `max_length` bounds a row's tokens. On success
/// `params` is filled. Errors: invalid_argument, out_of_range, unsupported.
Status check_gdn(const char* op, const GdnArgs& args, std::int64_t max_length, GdnParams& params);

}  // namespace hybridattn::ops
