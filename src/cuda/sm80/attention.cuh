// Softmax attention by matrix instructions: parameters and instances of its kernels.
#pragma once

#include "src/core/kernel.h"
#include "src/cuda/attention_rows.cuh"

namespace hybridattn::cuda {

/// Runs the tiles of few (`Few`) or of many query rows.
template <class X, class KV, int D, bool Few>
Status run_attention_tiles(const AttentionTileParams& p, const core::DeviceLaunch& launch);
/// Adds up the parts of tiles that were cut.
Status join_attention_parts(const AttentionTileParams& p, int dim,
                            const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
