// The output gate of attention where its kernels leave it out.
#pragma once

#include "src/core/kernel.h"
#include "src/cuda/attention_rows.cuh"

namespace hybridattn::cuda {

/// Multiplies what the rows' queries have in `out` with the sigmoids of their gates. Heads are
/// whole packs, rows aligned to 16 bytes.
Status gate_attention_rows(const AttentionCall& call, int dim, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
