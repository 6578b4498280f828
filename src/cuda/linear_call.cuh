// A product as its kernels take it.
#pragma once

#include "src/cuda/element.cuh"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

struct LinearCall {
  explicit LinearCall(const ops::LinearParams& p)
      : x(p.x), weight(p.weight), gate_weight(p.gate_weight), gate(p.gate), out(p.out),
        norm_weight(static_cast<const float*>(p.norm_weight.data)), norm_epsilon(p.norm_epsilon),
        next_norm(static_cast<const float*>(p.next_norm.data)), next_x(p.next_x),
        next_squares(p.next_squares), x_squares(p.x_squares), m(p.x.dim(0)), n(p.weight.dim(0)),
        k(p.x.dim(1)), accumulate(p.accumulate) {}

  View x;                    // [m, k]
  View weight;               // [n, k]
  View gate_weight;          // [n, k], or no data
  View gate;                 // [m, n], or no data
  View out;                  // [m, n]
  const float* norm_weight;  // [k], or no data
  float norm_epsilon;
  const float* next_norm;  // [n], or no data
  View next_x;             // [m, n]
  View next_squares;       // [m, n / 8] f32
  View x_squares;          // [m, k / 8] f32, or no data
  std::int64_t m, n, k;
  bool accumulate;
};

}  // namespace hybridattn::cuda
