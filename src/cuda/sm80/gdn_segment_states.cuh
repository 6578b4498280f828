// What the states at the cuts between segments are found from. A block walks over one segment of
// one head with 64 rows: V channels from zero, or rows of the identity without V.
#pragma once

#include "src/cuda/sm80/gdn_segments.cuh"

namespace hybridattn::cuda {

/// A state that has lost so many bits is taken for zero.
inline constexpr float kForgotten = -64.0f;

/// What a block does.
struct SegmentWork {
  Segment segment;
  WalkTask task;
  bool local;    // V channels, or rows of the identity
  bool forgets;  // the state at the segment's end depends on nothing before it
};

inline dim3 segment_grid(const ChunkParams& p) {
  return {static_cast<unsigned>(p.segments - 1), static_cast<unsigned>(p.v_heads * 2 * kWalkParts)};
}

/// The first chunk of a walk whose state at the end depends on nothing before it, or -1: the last
/// from which on all that was before is forgotten. By a whole warp.
__device__ inline int last_to_forget(const ChunkParams& p, const WalkTask& task) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float after = 0.0f;
  for (int end = task.chunks; end > 0; end -= 32) {
    const int c = end - 1 - lane;
    float sum = 0.0f;
    if (c >= 0) {
      sum = p.records[std::int64_t{task.first_chunk + c} * p.v_heads + task.head].factors.growth;
    }
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const float other = __shfl_up_sync(kAllLanes, sum, offset);
      if (lane >= offset) sum += other;
    }
    const unsigned found = __ballot_sync(kAllLanes, c >= 0 && after + sum <= kForgotten);
    if (found != 0) return end - __ffs(static_cast<int>(found));
    after += __shfl_sync(kAllLanes, sum, 31);
  }
  return -1;
}

/// That of this block of a segment_grid; false: nothing. A walk whose first chunks are forgotten
/// begins behind them.
__device__ inline bool find_work(const ChunkParams& p, SegmentWork& work) {
  const auto heads = static_cast<unsigned>(p.v_heads);
  const auto part = static_cast<int>(blockIdx.y / heads);
  work.local = part < kWalkParts;
  if (!find_segment(p, static_cast<int>(blockIdx.x), work.segment)) return false;
  WalkTask& task = work.task;
  task = walk_task(p, work.segment, static_cast<int>(blockIdx.y % heads), part % kWalkParts);
  if (task.row.slot == kPadIndex || (!work.local && work.segment.index == 0)) return false;
  // V channels that the head has not. Rows of the identity for K that it has not meet zeros: they
  // must be numbers.
  if (work.local && task.first_v >= p.v.channels) return false;
  const int begin = last_to_forget(p, task);
  work.forgets = begin >= 0;
  if (!work.forgets) return true;
  task.first_chunk += begin;
  task.chunks -= begin;
  task.row.start += begin * kChunk;
  task.row.length -= begin * kChunk;
  return work.local;
}

/// Rows of the identity.
__device__ inline void set_identity(StateRows& rows, const WalkTask& task) {
  for_state(task, [&](int i, int row, int column) {
    rows.s[i] = row == column ? 1.0f : 0.0f;
    rows.s[i + 1] = row == column + 1 ? 1.0f : 0.0f;
  });
}

__device__ inline void store_transfer(const StateRows& rows, const WalkTask& task,
                                      TransferMatrix& matrix) {
  for_state(task, [&](int i, int row, int column) {
    std::uint32_t high, low;
    split_pair(&rows.s[i], high, low);
    const int at = swizzled(row, column % 64 / 8) + column % 8 * 2;
    *reinterpret_cast<std::uint32_t*>(matrix.parts[0][column / 64] + at) = high;
    *reinterpret_cast<std::uint32_t*>(matrix.parts[1][column / 64] + at) = low;
  });
}

/// What the walk begins with: V channels of a row's first segment with the row's state, of which
/// they leave a copy.
template <bool Narrow = false>
__device__ void begin_work(const ChunkParams& p, const SegmentWork& work, StateRows& rows) {
  const WalkTask& task = work.task;
  if (!work.local) return set_identity(rows, task);
  rows.clear();
  if (work.segment.index > 0 || task.row.computed == 0) return;
  rows.load<Narrow>(p, task);
  rows.store(first_state(p, work.segment.cut, task.head), task);
  if (work.forgets) rows.clear();
}

__device__ inline void finish_work(const ChunkParams& p, const SegmentWork& work,
                                   const StateRows& rows) {
  const int cut = work.segment.cut, head = work.task.head;
  if (!work.local) return store_transfer(rows, work.task, transfer_of(p, cut, head));
  rows.store(local_state(p, cut, head), work.task);
  if (work.task.first_v == 0 && threadIdx.x == 0) {
    p.states.forgets[std::int64_t{cut} * p.v_heads + head] = work.forgets ? 1 : 0;
  }
}

}  // namespace hybridattn::cuda
