// The walk over chunks whose records lie in memory, for sm_80 and everything newer. A block: one
// head of one row or of a segment of it, 64 of its V channels.
#include "src/cuda/sm80/gdn_walk.cuh"

#include "src/cuda/grid.cuh"
#include "src/cuda/sm80/gdn_checkpoints.cuh"
#include "src/cuda/sm80/gdn_segment_states.cuh"
#include "src/cuda/sm80/gdn_step.cuh"

namespace hybridattn::cuda {
namespace {

/// S M + B: in bf16 parts, as in the matrix; of their products all but the smallest.
__device__ void multiply_transfer(const TransferMatrix& matrix, const float* local,
                                  const WalkTask& task, StateRows& rows) {
  using X = __nv_bfloat16;
  const int lane = thread_here() % 32;
  constexpr int kGroupBytes = sizeof(matrix.parts[0][0]);
  const std::uint32_t base = shared_address(&matrix) + swizzled(lane % 16, lane / 16);
  StateRows next;
  next.load(local, task);
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    std::uint32_t high[4], low[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) split_pair(&rows.s[8 * step + 2 * r], high[r], low[r]);
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      float* d = next.s + 8 * m;
      const std::uint32_t at = (base ^ 32 * (m % 4)) + m / 4 * kGroupBytes + 16 * step * 128;
      std::uint32_t b[4];
      load_transposed(b, at);
      multiply_add<X>(d, low, b[0], b[1]);
      multiply_add<X>(d + 4, low, b[2], b[3]);
      multiply_add<X>(d, high, b[0], b[1]);
      multiply_add<X>(d + 4, high, b[2], b[3]);
      load_transposed(b, at + 2 * kGroupBytes);
      multiply_add<X>(d, high, b[0], b[1]);
      multiply_add<X>(d + 4, high, b[2], b[3]);
    }
  }
  rows = next;
}

/// What the cuts before a segment lead to.
__device__ void enter_segment(const ChunkParams& p, const Segment& segment, const WalkTask& task,
                              StateRows& rows, unsigned char* shared) {
  static_assert(sizeof(TransferMatrix) <= sizeof(WalkBuffers));
  auto& matrix = *reinterpret_cast<TransferMatrix*>(shared);
  const int cuts = segment.cut - segment.index;  // that of the row's first segment
  const int from = last_that_forgets(p, segment, task.head);
  rows.load(local_state(p, cuts + from, task.head), task);
  for (int i = from + 1; i < segment.index; ++i) {
    __syncthreads();
    copy_pieces<kWalkers>(&matrix, &transfer_of(p, cuts + i, task.head), sizeof(matrix));
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    multiply_transfer(matrix, local_state(p, cuts + i, task.head), task, rows);
  }
  __syncthreads();
}

template <class X, class Checkpoints>
__global__ void __launch_bounds__(kWalkers, 2) walk_kernel(const __grid_constant__ ChunkParams p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  let_next_begin();
  wait_for_writers();
  const auto heads = static_cast<unsigned>(p.v_heads);
  Segment segment;
  if (!find_walk(p, static_cast<int>(blockIdx.x / (heads * kWalkParts)), segment)) return;
  const WalkTask task = walk_task(p, segment, static_cast<int>(blockIdx.x / kWalkParts % heads),
                                  static_cast<int>(blockIdx.x % kWalkParts));
  if (task.chunks == 0 || task.first_v >= p.v.channels) return;
  if (task.row.slot == kPadIndex) return zero_out<X>(p, task, kChannels);
  StateRows rows;
  load_state<true>(p, segment, task, rows, [&] { enter_segment(p, segment, task, rows, raw); });
  Checkpoints checkpoints(p, segment);
  walk_chunks<X, true>({p, task, *reinterpret_cast<WalkBuffers*>(raw)}, rows, checkpoints);
  if (!segment.last) return;
  checkpoints.pass(task.chunks, task, rows);
  rows.store<true>(p, task);
}

/// The states at the cuts: see gdn_segment_states.cuh.
template <class X>
__global__ void __launch_bounds__(kWalkers, 2)
    segment_states_kernel(const __grid_constant__ ChunkParams p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  let_next_begin();
  wait_for_writers();
  SegmentWork work;
  if (!find_work(p, work)) return;
  StateRows rows;
  begin_work<true>(p, work, rows);
  NoCheckpoints none(p, work.segment);
  walk_chunks<X, false>({p, work.task, *reinterpret_cast<WalkBuffers*>(raw), work.local}, rows,
                        none);
  finish_work(p, work, rows);
}

template <class X>
Status find_segment_states(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(WalkBuffers));
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", segment_states_kernel<X>, kBytes));
  return launch_early("gdn_prefill", launch, segment_states_kernel<X>, segment_grid(p), kWalkers,
                      kBytes, p);
}

template <class X, class Checkpoints>
Status walk(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(WalkBuffers));
  constexpr auto kKernel = walk_kernel<X, Checkpoints>;
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", kKernel, kBytes));
  return launch_early("gdn_prefill", launch, kKernel, walk_blocks(p), kWalkers, kBytes, p);
}

}  // namespace

template <class X>
Status walk_chunks_sm80(const ChunkParams& p, const core::DeviceLaunch& launch) {
  if (p.segments > 1) HYBRIDATTN_TRY(find_segment_states<X>(p, launch));
  return p.checkpoints.first == nullptr ? walk<X, NoCheckpoints>(p, launch)
                                        : walk<X, WalkCheckpoints>(p, launch);
}

template Status walk_chunks_sm80<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status walk_chunks_sm80<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
