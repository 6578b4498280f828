// The checkpoints of a row in device code.
#pragma once

#include "src/ops/checkpoints_params.h"

namespace hybridattn::cuda {

/// Those of a row that are still to be stored, in their order.
struct CheckpointsLeft {
  int next = 0, end = 0;

  CheckpointsLeft() = default;
  __device__ CheckpointsLeft(const ops::PlacedCheckpoints& all, int row) {
    if (all.first == nullptr) return;
    next = all.first[row];
    end = all.first[row + 1];
  }
};

}  // namespace hybridattn::cuda
