// What a linear kernel takes. Strides inside the views count elements.
#pragma once

#include <cstddef>

#include "hybridattn/ops/linear.h"

namespace hybridattn::ops {

struct LinearParams {
  ConstTensorView x;       // [m, k]
  ConstTensorView weight;  // [n, k]
  TensorView out;          // [m, n]
  bool accumulate;
};

/// The most rows and the columns of one task of the CPU kernel.
inline constexpr std::int64_t kLinearRows = 192;
inline constexpr std::int64_t kLinearColumns = 64;
/// Inner elements that a task goes through at a time.
inline constexpr std::int64_t kLinearSlab = 512;

/// Scratch of one worker in 4-byte units: sums, a panel of weights, a tile of x, a row of the
/// output.
inline constexpr std::int64_t kLinearSums = kLinearRows * kLinearColumns;
inline constexpr std::int64_t kLinearPanel = kLinearSlab * kLinearColumns;
inline constexpr std::int64_t kLinearTile = 8 * kLinearSlab;
inline constexpr std::size_t kLinearScratchBytes =
    static_cast<std::size_t>(kLinearSums + kLinearPanel + kLinearTile + kLinearColumns) * 4;

}  // namespace hybridattn::ops
