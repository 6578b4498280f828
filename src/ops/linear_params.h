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
  std::uint32_t* packed_x;  // room for linear_packed_bytes, where that is not 0
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

// ---- The CPU kernel on tiles (AMX).

/// Rows of x, and weights, that four tiles of sums cover, and the inner elements of one product.
inline constexpr std::int64_t kLinearTileBlock = 32;
inline constexpr std::int64_t kLinearTileInner = 32;
/// Weights of one task, the most blocks of rows of one task, and inner elements that it goes
/// through at a time: a slab of weights and one of x fit the first-level cache together, those of a
/// task and its sums the second-level one.
inline constexpr std::int64_t kLinearTileColumns = 256;
inline constexpr std::int64_t kLinearTileBlocks = 16;
inline constexpr std::int64_t kLinearTileSlab = 256;

/// Scratch of one worker in bytes: a slab of 32 weights, the sums of two blocks; those of a task.
inline constexpr std::int64_t kLinearTileWeights = kLinearTileSlab * kLinearTileBlock * 2;
inline constexpr std::int64_t kLinearTileSums = kLinearTileBlock * kLinearTileBlock;  // floats
inline constexpr std::size_t kLinearTileScratchBytes = static_cast<std::size_t>(
    kLinearTileWeights +
    kLinearTileSums * 4 * (2 + kLinearTileColumns / kLinearTileBlock * kLinearTileBlocks));

/// Bytes of x [rows, inner] as right operands of tiles.
constexpr std::size_t linear_packed_bytes(std::int64_t rows, std::int64_t inner) {
  const std::int64_t padded = (inner + kLinearTileInner - 1) / kLinearTileInner * kLinearTileInner;
  return static_cast<std::size_t>((rows + kLinearTileBlock - 1) / kLinearTileBlock *
                                  kLinearTileBlock * padded * 2);
}

}  // namespace hybridattn::ops
