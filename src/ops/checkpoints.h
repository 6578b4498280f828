// Checkpoints of rows: their checks, and how kernels get to read them.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/ragged_rows.h"
#include "src/ops/checkpoints_params.h"

namespace hybridattn::ops {

/// Checks what RowCheckpoints says of its arrays; the pool has `slots` slots. Errors:
/// invalid_argument, out_of_range.
Status check_checkpoints(const char* op, const RaggedRows& rows, const RowCheckpoints& checkpoints,
                         std::int64_t slots);
/// For an op that has none. Errors: unsupported where some are given.
Status refuse_checkpoints(const char* op, const RowCheckpoints& checkpoints);

/// Where the kernels of the context read checked checkpoints: uploaded on CUDA. Errors:
/// resource_exhausted, device_error; failed_precondition while a graph is captured.
Result<PlacedCheckpoints> place_checkpoints(Context& context, const RaggedRows& rows,
                                            const RowCheckpoints& checkpoints);

}  // namespace hybridattn::ops
