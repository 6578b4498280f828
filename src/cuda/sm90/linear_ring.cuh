// What products whose operands come through rings in shared memory have in common.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "hybridattn/status_macros.h"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/sm80/linear_few_rows.cuh"
#include "src/cuda/sm90/tensor_map.h"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

inline constexpr int kMostShared = 227 << 10;  // bytes that a block may have

/// What the copy engine reads.
struct LinearMaps {
  CUtensorMap weight, gate_weight, x;
};

/// Boxes of `outputs` weights, and of `x_rows` of x, which comes another way where that is 0.
inline Status encode_linear_maps(const LinearCall& p, int outputs, int x_rows, LinearMaps* maps) {
  HYBRIDATTN_TRY(encode_row_boxes(p.weight, p.n, p.k, outputs, &maps->weight));
  if (p.gate_weight.data != nullptr) {
    HYBRIDATTN_TRY(encode_row_boxes(p.gate_weight, p.n, p.k, outputs, &maps->gate_weight));
  }
  return x_rows == 0 ? Status() : encode_row_boxes(p.x, p.m, p.k, x_rows, &maps->x);
}

/// Why those products cannot serve a call, whatever its number of rows, or nullptr.
inline const char* refusal_linear_rings(const ops::LinearParams& p) {
  if (p.x.dim(1) == 0) return "x must have columns";
  if (!p.gate.empty()) return "a gate must be given by its weights";
  if (!has_boxes(p.x) || !has_boxes(p.weight) || !has_boxes(p.gate_weight)) {
    return "rows must not overlap";
  }
  const bool handed_on = !p.next_norm.empty() || !p.x_squares.empty();
  if (handed_on && p.weight.dtype != DType::kBF16) {
    return "norms are handed on for weights in bf16";
  }
  return refusal_linear_halves(p);
}

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
