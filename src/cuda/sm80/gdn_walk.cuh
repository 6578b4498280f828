// The half of the chunked delta rule that walks over a row's chunks, by warp-wide instructions.
#pragma once

#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {

/// Reads the records of all chunks, writes the outputs and, in place, the states.
template <class X>
Status walk_chunks_sm80(const ChunkParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
