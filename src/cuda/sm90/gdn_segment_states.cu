// What the states at the cuts between segments are found from. A block walks over one segment of
// one head with 64 rows: V channels from zero, or rows of the identity without V.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/gdn_segments.cuh"
#include "src/cuda/sm90/gdn_state.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"

namespace hybridattn::cuda {
namespace {

using StateShared = WalkShared<StateStage>;

/// Rows of the identity.
__device__ void set_identity(StateRows& rows, const WalkTask& task) {
  for_state(task, [&](int i, int row, int column) {
    rows.s[i] = row == column ? 1.0f : 0.0f;
    rows.s[i + 1] = row == column + 1 ? 1.0f : 0.0f;
  });
}

__device__ void store_transfer(const StateRows& rows, const WalkTask& task,
                               TransferMatrix& matrix) {
  for_state(task, [&](int i, int row, int column) {
    const std::uint32_t high = pack<__nv_bfloat16>(rows.s[i], rows.s[i + 1]);
    const float2 taken = unpack<__nv_bfloat16>(high);
    const std::uint32_t low = pack<__nv_bfloat16>(rows.s[i] - taken.x, rows.s[i + 1] - taken.y);
    const int at = swizzled(row, column % 64 / 8) + column % 8 * 2;
    *reinterpret_cast<std::uint32_t*>(matrix.parts[0][column / 64] + at) = high;
    *reinterpret_cast<std::uint32_t*>(matrix.parts[1][column / 64] + at) = low;
  });
}

/// The state that a walk from zero begins with: a row's first segment has the row's, of which it
/// leaves a copy.
__device__ void begin_local(const ChunkParams& p, const Segment& segment, const WalkTask& task,
                            bool forgets, StateRows& rows) {
  rows.clear();
  if (segment.index > 0 || task.row.computed == 0) return;
  rows.load(p, task);
  rows.store(first_state(p, segment.cut, task.head), task);
  if (forgets) rows.clear();
}

template <class X>
__device__ void walk(const ChunkParams& p, const WalkTask& task, bool with_v, StateRows& rows,
                     StateShared& shared) {
  OutputPlace<X> nowhere(p, task);
  for (int c = 0; c < task.chunks; ++c) {
    const int s = c % kStages;
    walk_chunk<X>(rows, nowhere, shared.stages[s], with_v, kChunk,
                  [&] { wait_barrier(&shared.full[s], c / kStages % 2); });
    arrive_as_warp(&shared.empty[s]);
  }
}

template <class X>
__global__ void __launch_bounds__(kWalkThreads, 2)
    segment_states_kernel(const __grid_constant__ ChunkParams p,
                          const __grid_constant__ WalkMaps maps) {
  extern __shared__ unsigned char raw[];
  auto& shared = aligned_shared<StateShared>(raw);
  const auto heads = static_cast<unsigned>(p.v_heads);
  const int head = static_cast<int>(blockIdx.y % heads);
  const bool local = blockIdx.y / heads < kWalkParts;
  Segment segment;
  if (!find_segment(p, static_cast<int>(blockIdx.x), segment)) return;
  WalkTask task = walk_task(p, segment, head, static_cast<int>(blockIdx.y / heads % kWalkParts));
  if (task.row.slot == kPadIndex || (!local && segment.index == 0)) return;
  const int begin = last_to_forget(p, task);
  const bool forgets = begin >= 0;
  if (!local && forgets) return;
  const bool walks = threadIdx.x < kWalkers;
  init_barriers(shared);
  clear_matrices(shared);
  __syncthreads();
  if (forgets) {
    task.first_chunk += begin;
    task.chunks -= begin;
    task.row.start += begin * kChunk;
    task.row.length -= begin * kChunk;
  }
  if (!walks) return load_chunks(p, maps, task, local, shared);
  StateRows rows;
  if (local) {
    begin_local(p, segment, task, forgets, rows);
  } else {
    set_identity(rows, task);
  }
  walk<X>(p, task, local, rows, shared);
  if (!local) return store_transfer(rows, task, transfer_of(p, segment.cut, head));
  rows.store(local_state(p, segment.cut, head), task);
  if (task.first_v == 0 && threadIdx.x == 0) {
    p.states.forgets[std::int64_t{segment.cut} * p.v_heads + head] = forgets ? 1 : 0;
  }
}

}  // namespace

template <class X>
Status find_segment_states_sm90(const ChunkParams& p, const WalkMaps& maps,
                                const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(StateShared)) + 1024;
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", segment_states_kernel<X>, kBytes));
  const dim3 grid(static_cast<unsigned>(p.segments - 1),
                  static_cast<unsigned>(p.v_heads * 2 * kWalkParts));
  segment_states_kernel<X><<<grid, kWalkThreads, kBytes, stream_of(launch)>>>(p, maps);
  return check_launch("gdn_prefill");
}

template Status find_segment_states_sm90<__nv_bfloat16>(const ChunkParams&, const WalkMaps&,
                                                        const core::DeviceLaunch&);
template Status find_segment_states_sm90<__half>(const ChunkParams&, const WalkMaps&,
                                                 const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
