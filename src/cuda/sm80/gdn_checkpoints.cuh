// Checkpoints of the chunked delta rule: a walk leaves the state at the last chunk boundary at or
// before each in scratch, and finish_checkpoints takes it over the tokens that are left.
#pragma once

#include "src/cuda/checkpoints.cuh"
#include "src/cuda/sm80/gdn_segments.cuh"

namespace hybridattn::cuda {

/// Those of the row of a walk over a segment.
class WalkCheckpoints {
 public:
  __device__ WalkCheckpoints(const ChunkParams& p, const Segment& segment)
      : p_(p), left_(p.checkpoints, segment.row), first_(segment.first) {
    while (left_.next < left_.end && boundary() < first_) ++left_.next;
  }

  /// Called with the state before chunk `c` of the walk.
  __device__ void pass(int c, const WalkTask& task, const StateRows& rows) {
    for (; left_.next < left_.end && boundary() == first_ + c; ++left_.next) {
      const std::int64_t head = std::int64_t{left_.next} * p_.v_heads + task.head;
      rows.store(p_.boundary + head * kStateFloats, task);
    }
  }

 private:
  /// Whole chunks before the next.
  __device__ int boundary() const { return p_.checkpoints.tokens[left_.next] / kChunk; }

  const ChunkParams& p_;
  CheckpointsLeft left_;
  int first_;
};

/// For walks without any, which need not pay for them.
struct NoCheckpoints {
  __device__ NoCheckpoints(const ChunkParams&, const Segment&) {}
  __device__ void pass(int, const WalkTask&, const StateRows&) {}
};

}  // namespace hybridattn::cuda
