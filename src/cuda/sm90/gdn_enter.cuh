// The state at the start of a segment.
#pragma once

#include "src/cuda/sm80/gdn_segments.cuh"
#include "src/cuda/sm90/gdn_step.cuh"

namespace hybridattn::cuda {

/// S M + B, with M in shared memory: in bf16 parts, as S is; of their products all but the
/// smallest.
__device__ inline void multiply_state(StateRows& rows, const float* local, const WalkTask& task,
                                      const TransferMatrix& matrix) {
  std::uint32_t high[8][4], low[8][4];
#pragma unroll
  for (int step = 0; step < 8; ++step) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      split_pair(&rows.s[8 * step + 2 * r], high[step][r], low[step][r]);
    }
  }
  rows.load(local, task);
  constexpr int kGroupBytes = sizeof(matrix.parts[0][0]);
  const std::uint64_t high_part = matrix_descriptor(shared_address(matrix.parts[0]), kGroupBytes);
  const std::uint64_t low_part = matrix_descriptor(shared_address(matrix.parts[1]), kGroupBytes);
  hold(rows.s);
  begin_products();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    constexpr int kStepBytes = 16 * 128;
    multiply_columns<__nv_bfloat16>(rows.s, low[step], advance(high_part, step * kStepBytes));
    multiply_columns<__nv_bfloat16>(rows.s, high[step], advance(low_part, step * kStepBytes));
    multiply_columns<__nv_bfloat16>(rows.s, high[step], advance(high_part, step * kStepBytes));
  }
  commit_products();
  wait_products<0>();
  hold(rows.s);
}

/// What the cuts before a segment lead to, by the walkers. The stages are not in use yet: their
/// place is the matrices'.
__device__ inline void enter_segment(const ChunkParams& p, const Segment& segment,
                                     const WalkTask& task, StateRows& rows,
                                     WalkShared<OutputStage>& shared) {
  auto* matrices = reinterpret_cast<TransferMatrix*>(shared.stages);
  static_assert(2 * sizeof(TransferMatrix) <= sizeof(shared.stages));
  const int cuts = segment.cut - segment.index;  // that of the row's first segment
  const int from = last_that_forgets(p, segment, task.head);
  rows.load(local_state(p, cuts + from, task.head), task);
  const auto begin_copy = [&](int i) {
    if (threadIdx.x != 0 || i >= segment.index) return;
    std::uint64_t* barrier = &shared.transfer[(i - from) % 2];
    arrive_expecting(barrier, sizeof(TransferMatrix));
    copy_bulk(&matrices[(i - from) % 2], &transfer_of(p, cuts + i, task.head),
              sizeof(TransferMatrix), barrier);
  };
  begin_copy(from + 1);
  begin_copy(from + 2);
  for (int i = from + 1; i < segment.index; ++i) {
    wait_barrier(&shared.transfer[(i - from) % 2], (i - from - 1) / 2 % 2);
    multiply_state(rows, local_state(p, cuts + i, task.head), task, matrices[(i - from) % 2]);
    asm volatile("bar.sync 1, %0;" ::"n"(kWalkers) : "memory");
    begin_copy(i + 2);
  }
}

}  // namespace hybridattn::cuda
