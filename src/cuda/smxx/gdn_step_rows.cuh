// The recurrence alone for rows of one token, where K and V are those of the models at hand: the
// state passes through registers once.
#pragma once

#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {

/// Why the fast kernel cannot serve a call, nullptr when it can.
const char* step_rows_refusal(const ops::GdnParams& p);
Status run_step_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
