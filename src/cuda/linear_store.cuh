// What becomes of the sums of a product.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/linear_call.cuh"

namespace hybridattn::cuda {

/// `sum` and, with weights of a gate, `gate_sum` as output (i, j), rounded once.
__device__ inline void store_product(const LinearCall& p, std::int64_t i, std::int64_t j, float sum,
                                     float gate_sum) {
  if (p.gate_weight.data != nullptr) sum *= silu(gate_sum);
  if (p.gate.data != nullptr) sum *= silu(load(p.gate, p.gate.at(i, j)));
  const std::int64_t at = p.out.at(i, j);
  store(p.out, at, p.accumulate ? load(p.out, at) + sum : sum);
}

}  // namespace hybridattn::cuda
