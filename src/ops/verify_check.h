// The check that all ops over verify rows share.
#pragma once

#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/verify_rows.h"
#include "src/core/arg_check.h"

namespace hybridattn::ops {

/// Every parent of a row is an earlier token or -1, and a tree is not too large.
Status check_parents(const char* op, std::int32_t row, const std::int32_t* parents,
                     std::int64_t first, std::int64_t length);

/// Kept slots inside [0, kept_slots), parents earlier than their tokens. `rows` are checked
/// already.
Status check_verify_rows(const char* op, const RaggedRows& rows, const VerifyRows& verify,
                         std::int64_t kept_slots);

}  // namespace hybridattn::ops
