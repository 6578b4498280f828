// What products whose operands come through rings in shared memory have in common.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

inline constexpr int kMostShared = 227 << 10;  // bytes that a block may have

/// What the copy engine reads.
struct LinearMaps {
  CUtensorMap weight, gate_weight, x;
};

/// The same number, which all lanes have alike: kept in a register where else the compiler would
/// make it anew in every turn of a loop.
__device__ inline int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

/// A place in a ring of stages, and how often it was around.
struct Ring {
  int stage = 0, parity = 0;
  __device__ void advance(int by, int stages) {
    for (stage += by; stage >= stages; stage -= stages) parity ^= 1;
  }
  /// The same by no more than `stages`.
  __device__ void step(int by, int stages) {
    stage += by;
    if (stage >= stages) {
      stage -= stages;
      parity ^= 1;
    }
  }
};

__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// wait_barrier for two at once.
__device__ inline void wait_barriers(Barrier first, int first_parity, Barrier second,
                                     int second_parity) {
  asm volatile(
      "{\n.reg .pred one, other;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 one, [%0], %1;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 other, [%2], %3;\n"
      "and.pred one, one, other;\n"
      "@one bra ready;\nbra again;\nready:\n}" ::"r"(first.address()),
      "r"(first_parity), "r"(second.address()), "r"(second_parity)
      : "memory");
}

/// A box of a tensor of two dimensions to the same place in the shared memory of the blocks of a
/// cluster whose bits are set in `blocks`, counted by the barrier that each has at the same place.
__device__ inline void copy_box_to_all(void* to, const CUtensorMap& map, int first, int second,
                                       Barrier barrier, std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(first), "r"(second), "r"(barrier.address()), "h"(blocks)
      : "memory");
}

}  // namespace hybridattn::cuda
