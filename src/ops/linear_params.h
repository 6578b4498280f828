// What a linear kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/linear.h"

namespace hybridattn::ops {

struct LinearParams {
  ConstTensorView x;       // [m, k]
  ConstTensorView weight;  // [n, k]
  TensorView out;          // [m, n]
  bool accumulate;
};

/// Rows of x that one task works on: as many as keep them in the second-level cache as float32, in a
/// range where the weights are read few times (large blocks) and the tasks stay many (small ones).
constexpr std::int64_t linear_block_rows(std::int64_t k) {
  const std::int64_t fit = 96 * 1024 / (k > 0 ? k : 1) / 8 * 8;
  return fit < 8 ? 8 : (fit > 96 ? 96 : fit);
}

}  // namespace hybridattn::ops
