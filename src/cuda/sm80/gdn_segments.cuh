// Rows cut into segments, where rows and heads are too few to fill the card. A call has at most
// ChunkParams::segments of them. The states at the cuts are computed first: each segment but the
// rows' last is walked from zero and from the identity, which gives B and M of
//   S_end = S_start M + B,
// then all segments at once walk from the states that follow.
#pragma once

#include "src/cuda/reduce.cuh"
#include "src/cuda/sm80/gdn_state.cuh"

namespace hybridattn::cuda {

/// A part of a row.
struct Segment {
  int row;
  int index = 0;  // in its row
  int cut = 0;    // at its end; that of segment i of the same row is cut - index + i
  int first = 0;  // its first chunk, counted from the row's
  int chunks = 0;
  bool last = true;  // of its row
};

/// Chunks of a segment, 0 where rows are not cut. Measured: a chunk of the walks for the states at
/// the cuts takes 0.7 of the time that one takes with outputs, all else the time of 8 chunks.
__device__ inline int segment_chunks(const ChunkParams& p) {
  if (p.segments < 2) return 0;
  const int each = p.rows.segment_chunks[p.segments];
  const bool worth = 10 * p.rows.segment_chunks[0] > 17 * each + 80;
  return each > 0 && worth ? each : 0;
}

__device__ inline int chunks_of_row(const ChunkParams& p, int row) {
  return (p.rows.length[row] + kChunk - 1) / kChunk;
}

/// The segment that ends in cut `cut`; false where there is none. With `each` chunks in a segment,
/// a row whose first chunk is f has the cuts from f / each on: as there are only cuts inside of
/// rows, no two rows share one.
__device__ inline bool find_segment(const ChunkParams& p, int cut, Segment& out) {
  const int each = segment_chunks(p);
  const int chunk = (cut + 1) * each - 1;  // of that segment, if it is one
  if (each == 0 || chunk >= p.rows.chunks) return false;
  out.row = p.rows.chunk_row[chunk];
  if (out.row < 0) return false;
  out.index = cut - p.rows.first_chunk[out.row] / each;
  out.cut = cut;
  out.first = out.index * each;
  out.chunks = each;
  out.last = false;
  return out.first + each < chunks_of_row(p, out.row);
}

/// The last segment of a row: all of it where it is not cut.
__device__ inline Segment last_segment(const ChunkParams& p, int row) {
  Segment out;
  out.row = row;
  out.chunks = chunks_of_row(p, row);
  const int each = segment_chunks(p);
  if (each > 0 && out.chunks > each) {
    out.index = (out.chunks - 1) / each;
    out.cut = p.rows.first_chunk[row] / each + out.index;
    out.first = out.index * each;
    out.chunks -= out.first;
  }
  return out;
}

/// What walk `index` of a grid of walk_blocks goes over; false: nothing. Rows come first: blocks
/// that find nothing would put two of those that do on one multiprocessor.
__device__ inline bool find_walk(const ChunkParams& p, int index, Segment& out) {
  if (index >= p.rows.count) return find_segment(p, index - p.rows.count, out);
  out = last_segment(p, index);
  return true;
}
inline unsigned walk_blocks(const ChunkParams& p) {
  const std::int64_t walks = std::int64_t{p.rows.count} + p.segments - 1;
  return static_cast<unsigned>(walks * p.v_heads * kWalkParts);
}

__device__ inline WalkTask walk_task(const ChunkParams& p, const Segment& segment, int head,
                                     int part) {
  WalkTask task;
  task.row = load_row(p.rows, segment.row);
  task.row.start += segment.first * kChunk;
  task.row.length -= segment.first * kChunk;
  if (!segment.last) task.row.length = segment.chunks * kChunk;
  task.head = head;
  task.first_v = part * kChannels;
  task.first_chunk = p.rows.first_chunk[segment.row] + segment.first;
  task.chunks = segment.chunks;
  return task;
}

// Where SegmentStates has what belongs to a cut of a head; first_state: the copy of the row's
// state, in the place of the matrix that a row's first segment has no need of.
__device__ inline float* local_state(const ChunkParams& p, int cut, int head) {
  return p.states.local + (std::int64_t{cut} * p.v_heads + head) * kStateFloats;
}
__device__ inline TransferMatrix& transfer_of(const ChunkParams& p, int cut, int head) {
  return p.states.transfer[std::int64_t{cut} * p.v_heads + head];
}
__device__ inline float* first_state(const ChunkParams& p, int cut, int head) {
  return reinterpret_cast<float*>(&transfer_of(p, cut, head));
}

/// The last segment before `segment`, but after the row's first, that forgets the state at its
/// start, else 0: from the state at its end on all matters. By a whole warp.
__device__ inline int last_that_forgets(const ChunkParams& p, const Segment& segment, int head) {
  static_assert(kGdnMaxSegments <= 32, "a lane for each");
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t cut = segment.cut - segment.index + lane;
  const bool forgets =
      lane > 0 && lane < segment.index && p.states.forgets[cut * p.v_heads + head] != 0;
  return max(31 - __clz(static_cast<int>(__ballot_sync(kAllLanes, forgets))), 0);
}

/// The state that a segment or a whole row begins with; `enter` finds it from the cuts before.
template <bool Narrow = false, class Enter>
__device__ void load_state(const ChunkParams& p, const Segment& segment, const WalkTask& task,
                           StateRows& rows, const Enter& enter) {
  if (segment.index > 0) {
    enter();
  } else if (segment.last || task.row.computed == 0) {
    rows.load<Narrow>(p, task);
  } else {  // its copy: whoever walks the row's last segment writes the state
    rows.load(first_state(p, segment.cut, task.head), task);
  }
}

}  // namespace hybridattn::cuda
