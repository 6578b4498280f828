// The half of the chunked delta rule that walks over a row's chunks, by warpgroup instructions.
#pragma once

#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {

struct WalkMaps;

/// The inputs as tensor maps.
Status encode_maps(const ChunkParams& p, WalkMaps* maps);

/// Both halves in one kernel: needs no scratch, writes the outputs and, in place, the states; the
/// same bits as the two where these cut no rows.
template <class X>
Status run_chunks_fused(const ChunkParams& p, const core::DeviceLaunch& launch);

/// Whether that takes less time than the two halves, for rows of the lengths that the host has.
bool fused_is_faster(const ops::GdnPrefillParams& p, const core::DeviceInfo& info);

/// Reads the records of all chunks, writes the outputs and, in place, the states.
template <class X>
Status walk_chunks_sm90(const ChunkParams& p, const core::DeviceLaunch& launch);

/// The first half of it where rows may be cut: fills `p.states`.
template <class X>
Status find_segment_states_sm90(const ChunkParams& p, const WalkMaps& maps,
                                const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
