// A product as its kernels take it.
#pragma once

#include "src/cuda/element.cuh"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

struct LinearCall {
  explicit LinearCall(const ops::LinearParams& p)
      : x(p.x), weight(p.weight), gate_weight(p.gate_weight), gate(p.gate), out(p.out),
        norm_weight(static_cast<const float*>(p.norm_weight.data)), norm_epsilon(p.norm_epsilon),
        m(p.x.dim(0)), n(p.weight.dim(0)), k(p.x.dim(1)), accumulate(p.accumulate) {}

  View x;                    // [m, k]
  View weight;               // [n, k]
  View gate_weight;          // [n, k], or no data
  View gate;                 // [m, n], or no data
  View out;                  // [m, n]
  const float* norm_weight;  // [k], or no data
  float norm_epsilon;
  std::int64_t m, n, k;
  bool accumulate;
};

}  // namespace hybridattn::cuda
