// The walk over chunks whose records lie in memory. A block: one head of one row or of a segment of
// it, 64 of its V channels; a warpgroup walks, the last warp loads. Blocks of whole heads, two
// warpgroups that share q and k, take as long as two of these one after the other, and longer where
// rows differ in length.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/gdn_checkpoints.cuh"
#include "src/cuda/sm90/gdn_enter.cuh"
#include "src/cuda/sm90/gdn_step.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/sm90/tensor_map.h"

namespace hybridattn::cuda {
namespace {

using OutputShared = WalkShared<OutputStage>;

template <class X, class Checkpoints>
__device__ void walk(const ChunkParams& p, const WalkTask& task, StateRows& rows,
                     OutputShared& shared, Checkpoints& checkpoints) {
  OutputPlace<X> place(p, task);
  for (int c = 0; c < task.chunks; ++c) {
    checkpoints.pass(c, task, rows);
    const int s = c % kStages;
    OutputStage& stage = shared.stages[s];
    walk_chunk<X>(
        rows, stage, true, [&] { wait_barrier(&shared.full[s], c / kStages % 2); }, [] {},
        [&](const float* out) {
          store_output<4>(place, shared_address(stage.v), out, task.row.length - c * kChunk);
        });
    arrive_as_warp(&shared.empty[s]);
  }
}

template <class X, class Checkpoints>
__global__ void __launch_bounds__(kWalkThreads, 1)
    walk_kernel(const __grid_constant__ ChunkParams p, const __grid_constant__ WalkMaps maps) {
  extern __shared__ unsigned char raw[];
  let_next_begin();
  wait_for_writers();
  auto& shared = aligned_shared<OutputShared>(raw);
  const auto heads = static_cast<unsigned>(p.v_heads);
  Segment segment;
  if (!find_walk(p, static_cast<int>(blockIdx.x / (heads * kWalkParts)), segment)) return;
  const WalkTask task = walk_task(p, segment, static_cast<int>(blockIdx.x / kWalkParts % heads),
                                  static_cast<int>(blockIdx.x % kWalkParts));
  if (task.chunks == 0) return;
  if (task.row.slot == kPadIndex) return zero_out<X>(p, task, kChannels);
  const bool walks = threadIdx.x < kWalkers;
  init_barriers(shared);
  __syncthreads();
  StateRows rows;
  if (walks) {
    load_state(p, segment, task, rows, [&] { enter_segment(p, segment, task, rows, shared); });
  }
  __syncthreads();
  clear_matrices(shared);
  __syncthreads();
  if (!walks) return load_chunks(p, maps, task, true, shared);
  Checkpoints checkpoints(p, segment);
  walk<X>(p, task, rows, shared, checkpoints);
  if (!segment.last) return;
  checkpoints.pass(task.chunks, task, rows);
  rows.store(p, task);
}

template <class X, class Checkpoints>
Status launch_walk(const ChunkParams& p, const WalkMaps& maps, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(OutputShared)) + 1024;
  constexpr auto kKernel = walk_kernel<X, Checkpoints>;
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", kKernel, kBytes));
  return launch_early("gdn_prefill", launch, kKernel, walk_blocks(p), kWalkThreads, kBytes, p,
                      maps);
}

}  // namespace

Status encode_maps(const ChunkParams& p, WalkMaps* maps) {
  HYBRIDATTN_TRY(encode_token_boxes(p.q, p.tokens, p.k_heads, kChunkDim, &maps->q));
  HYBRIDATTN_TRY(encode_token_boxes(p.k, p.tokens, p.k_heads, kChunkDim, &maps->k));
  return encode_token_boxes(p.v, p.tokens, p.v_heads, kChunkDim, &maps->v);
}

template <class X>
Status walk_chunks_sm90(const ChunkParams& p, const core::DeviceLaunch& launch) {
  WalkMaps maps;
  HYBRIDATTN_TRY(encode_maps(p, &maps));
  if (p.segments > 1) HYBRIDATTN_TRY(find_segment_states_sm90<X>(p, maps, launch));
  return p.checkpoints.first == nullptr ? launch_walk<X, NoCheckpoints>(p, maps, launch)
                                        : launch_walk<X, WalkCheckpoints>(p, maps, launch);
}

template Status walk_chunks_sm90<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status walk_chunks_sm90<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
