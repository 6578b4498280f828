// Softmax attention by warpgroup instructions.
#pragma once

#include "src/core/kernel.h"
#include "src/cuda/attention_rows.cuh"

namespace hybridattn::cuda {

/// Runs the tiles of many query rows, each of 128, over keys and values of X.
template <class X, int D>
Status run_attention_sm90(const AttentionTileParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
