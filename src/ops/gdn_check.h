// The checks that gdn_step and gdn_prefill share.
#pragma once

#include "src/core/arg_check.h"
#include "src/ops/gdn_params.h"

namespace hybridattn::ops {

/// Shapes, dtypes, head ratio, head dims and rows; `max_length` bounds a row's tokens. On success
/// `params` is filled. Errors: invalid_argument, out_of_range, unsupported.
Status check_gdn(const char* op, const GdnArgs& args, std::int64_t max_length, GdnParams& params);

/// The head counts and dims that the kernels have.
void check_gdn_heads(core::ArgCheck& check, std::int64_t hk, std::int64_t hv, std::int64_t k_dim,
                     std::int64_t v_dim);

/// Floats of scratch that one step of one head needs: q, k, the decay of each key channel, one row
/// of the state; v and the output.
inline std::int64_t gdn_step_scratch(const GdnParams& params) {
  return 4 * params.k.dim(2) + 2 * params.v.dim(2);
}

}  // namespace hybridattn::ops
