// The recurrence alone for rows that step, where K and V are those of the models at hand: the state
// passes through registers once.
#pragma once

#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {

/// Why the fast kernel cannot serve a call, nullptr when it can.
const char* step_rows_refusal(const ops::GdnParams& p);
/// Rows of one token, the state in place.
Status run_step_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch);
/// Drafted tokens, every state kept; kept states with rows aligned as those of the state.
Status run_verify_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
