// Where linear_int8 on tiles finds its operands.
#pragma once

#include "src/ops/linear_int8_params.h"
#include "src/ops/linear_params.h"

namespace hybridattn::ops {

/// Bytes before x as right operands of tiles: x in eight bits, to a whole line.
constexpr std::size_t linear_int8_packed_offset(std::int64_t rows, std::int64_t inner) {
  return (linear_int8_quantized_bytes(rows, inner) + 63) / 64 * 64;
}

/// Bytes of both; two bytes in a tile take the place of one number of bf16.
constexpr std::size_t linear_int8_tile_bytes(std::int64_t rows, std::int64_t inner) {
  return linear_int8_packed_offset(rows, inner) + linear_packed_bytes(rows, (inner + 1) / 2);
}

}  // namespace hybridattn::ops
