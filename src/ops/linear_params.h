// What a linear kernel takes. Strides inside the views count elements.
#pragma once

#include <algorithm>
#include <cstddef>

#include "hybridattn/ops/linear.h"

namespace hybridattn::ops {

struct LinearParams {
  ConstTensorView x;       // [m, k]
  ConstTensorView weight;  // [n, k]
  TensorView out;          // [m, n]
  bool accumulate;
  ConstTensorView gate;           // [m, n] of the type of out, or no data
  std::uint32_t* packed_x;        // CPU: room for linear_packed_bytes, where that is not 0
  ConstTensorView gate_weight{};  // CUDA: [n, k], or no data
  bool batch_invariant = false;   // CUDA
  ConstTensorView norm_weight{};  // CUDA: [k], or no data
  float norm_epsilon = 0;
  ConstTensorView next_norm{};  // CUDA: [n], or no data, as the three behind it
  TensorView next_x{};          // [m, n]
  TensorView next_squares{};    // [m, n / kLinearSquares]
  ConstTensorView x_squares{};  // [m, k / kLinearSquares]
};

/// Columns whose squares are handed on as one sum.
inline constexpr std::int64_t kLinearSquares = 8;

/// The most rows of one task of the CPU kernel, and the columns that it goes through at a time.
inline constexpr std::int64_t kLinearRows = 192;
inline constexpr std::int64_t kLinearColumns = 64;
/// Inner elements that a task goes through at a time.
inline constexpr std::int64_t kLinearSlab = 512;
/// Rows of x that may be copied, and floats between two of them: a power of two would put all rows
/// into the same few sets of the first-level cache.
inline constexpr std::int64_t kLinearTileRows = 16;
inline constexpr std::int64_t kLinearTileStride = kLinearSlab + 16;

/// Scratch of one worker in 4-byte units: sums, two panels of weights, a tile of x, a row of the
/// output.
inline constexpr std::int64_t kLinearSums = kLinearRows * kLinearColumns;
inline constexpr std::int64_t kLinearPanel = kLinearSlab * kLinearColumns;
inline constexpr std::int64_t kLinearTile = kLinearTileRows * kLinearTileStride;
inline constexpr std::size_t kLinearScratchBytes =
    static_cast<std::size_t>(kLinearSums + 2 * kLinearPanel + kLinearTile + kLinearColumns) * 4;

// ---- The CPU kernel on tiles (AMX).

/// Rows of x, and weights, that four tiles of sums cover, and the inner elements of one product.
inline constexpr std::int64_t kLinearTileBlock = 32;
inline constexpr std::int64_t kLinearTileInner = 32;
/// Weights of one task, the most blocks of rows of one task, and inner elements that it goes
/// through at a time: a slab of weights and one of x fit the first-level cache together, those of a
/// task and its sums the second-level one.
inline constexpr std::int64_t kLinearTileColumns = 256;
inline constexpr std::int64_t kLinearTileBlocks = 16;
inline constexpr std::int64_t kLinearTileSlab = 512;

/// Scratch of one worker in bytes: a slab of 32 weights, the sums of two blocks; those of a task.
inline constexpr std::int64_t kLinearTileWeights = kLinearTileSlab * kLinearTileBlock * 2;
inline constexpr std::int64_t kLinearTileSums = kLinearTileBlock * kLinearTileBlock;  // floats
inline constexpr std::size_t kLinearTileScratchBytes = static_cast<std::size_t>(
    kLinearTileWeights +
    kLinearTileSums * 4 * (2 + kLinearTileColumns / kLinearTileBlock * kLinearTileBlocks));

/// Scratch of one worker of any kernel.
inline constexpr std::size_t kLinearWorkerBytes =
    std::max(kLinearScratchBytes, kLinearTileScratchBytes);

/// What cuBLASLt may use.
inline constexpr std::size_t kLinearCudaWorkspaceBytes = std::size_t{32} << 20;

/// Bytes of x [rows, inner] as right operands of tiles.
constexpr std::size_t linear_packed_bytes(std::int64_t rows, std::int64_t inner) {
  const std::int64_t padded = (inner + kLinearTileInner - 1) / kLinearTileInner * kLinearTileInner;
  return static_cast<std::size_t>((rows + kLinearTileBlock - 1) / kLinearTileBlock *
                                  kLinearTileBlock * padded * 2);
}

}  // namespace hybridattn::ops
