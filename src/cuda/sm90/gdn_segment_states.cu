// What the states at the cuts between segments are found from, by warpgroup instructions.
#include "src/cuda/sm80/gdn_segment_states.cuh"

#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/gdn_step.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"

namespace hybridattn::cuda {
namespace {

using StateShared = WalkShared<StateStage>;

template <class X>
__device__ void walk(const ChunkParams& p, const WalkTask& task, bool with_v, StateRows& rows,
                     StateShared& shared) {
  for (int c = 0; c < task.chunks; ++c) {
    const int s = c % kStages;
    walk_chunk<X>(
        rows, shared.stages[s], with_v, [&] { wait_barrier(&shared.full[s], c / kStages % 2); },
        [] {}, [](const float*) {});
    arrive_as_warp(&shared.empty[s]);
  }
}

template <class X>
__global__ void __launch_bounds__(kWalkThreads, 2)
    segment_states_kernel(const __grid_constant__ ChunkParams p,
                          const __grid_constant__ WalkMaps maps) {
  extern __shared__ unsigned char raw[];
  let_next_begin();
  wait_for_writers();
  auto& shared = aligned_shared<StateShared>(raw);
  SegmentWork work;
  if (!find_work(p, work)) return;
  init_barriers(shared);
  clear_matrices(shared);
  __syncthreads();
  if (threadIdx.x >= kWalkers) return load_chunks(p, maps, work.task, work.local, shared);
  StateRows rows;
  begin_work(p, work, rows);
  walk<X>(p, work.task, work.local, rows, shared);
  finish_work(p, work, rows);
}

}  // namespace

template <class X>
Status find_segment_states_sm90(const ChunkParams& p, const WalkMaps& maps,
                                const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(StateShared)) + 1024;
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", segment_states_kernel<X>, kBytes));
  return launch_early("gdn_prefill", launch, segment_states_kernel<X>, segment_grid(p),
                      kWalkThreads, kBytes, p, maps);
}

template Status find_segment_states_sm90<__nv_bfloat16>(const ChunkParams&, const WalkMaps&,
                                                        const core::DeviceLaunch&);
template Status find_segment_states_sm90<__half>(const ChunkParams&, const WalkMaps&,
                                                 const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
