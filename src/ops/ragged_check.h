// Checks of a RaggedRows against the tensors it indexes.
#pragma once

#include "hybridattn/ops/ragged_rows.h"
#include "src/core/arg_check.h"

namespace hybridattn::ops {

/// Every token lies in [0, tokens), every slot is kPadIndex or in [0, slots), lengths and counts
/// are not negative, and lengths stay within `max_length`. Errors: invalid_argument, out_of_range.
Status check_ragged_rows(const char* op, const RaggedRows& rows, std::int64_t tokens,
                         std::int64_t slots, std::int64_t max_length);

}  // namespace hybridattn::ops
