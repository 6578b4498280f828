// Checkpoints of the chunked delta rule: a walk leaves the state at the last chunk boundary at or
// before each in scratch, and finish_checkpoints takes it over the tokens that are left.
#pragma once

#include "src/cuda/sm80/gdn_segments.cuh"

namespace hybridattn::cuda {

/// Those of the row of a walk over a segment. Kept is what cannot be read again: registers are few.
class WalkCheckpoints {
 public:
  __device__ WalkCheckpoints(const ChunkParams& p, const Segment& segment)
      : p_(p), row_(segment.row), next_(p.checkpoints.first[segment.row]) {
    while (left() && boundary() < segment.first) ++next_;
  }

  /// Called with the state before chunk `c` of the walk.
  __device__ void pass(int c, const WalkTask& task, const StateRows& rows) {
    const int chunk = task.first_chunk + c - p_.rows.first_chunk[row_];
    for (; left() && boundary() == chunk; ++next_) {
      const std::int64_t head = std::int64_t{next_} * p_.v_heads + task.head;
      rows.store(p_.boundary + head * kStateFloats, task);
    }
  }

 private:
  __device__ bool left() const { return next_ < p_.checkpoints.first[row_ + 1]; }
  /// Whole chunks before the next.
  __device__ int boundary() const { return p_.checkpoints.tokens[next_] / kChunk; }

  const ChunkParams& p_;
  int row_, next_;
};

/// For walks without any, which need not pay for them.
struct NoCheckpoints {
  __device__ NoCheckpoints(const ChunkParams&, const Segment&) {}
  __device__ void pass(int, const WalkTask&, const StateRows&) {}
};

}  // namespace hybridattn::cuda
