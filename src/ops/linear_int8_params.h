// What a linear_int8 kernel takes. Strides inside the views count elements.
#pragma once

#include <cstddef>

#include "hybridattn/ops/linear_int8.h"

namespace hybridattn::ops {

struct LinearInt8Params {
  ConstTensorView x;             // [m, k]
  ConstTensorView weight;        // [n, k] i8
  ConstTensorView weight_scale;  // [n] f32
  TensorView out;                // [m, n]
  bool accumulate;
  ConstTensorView gate;  // [m, n] of the type of out, or no data
  std::byte* quantized;  // room for linear_int8_quantized_bytes
};

/// More inner elements could leave the range of a sum: 255 * 127 each.
inline constexpr std::int64_t kLinearInt8Inner = 65536;

/// Bytes between two rows of x in eight bits: whole cache lines and one more, since rows a power of
/// two apart would meet in the same few sets of the first-level cache. What is behind a row is 0.
constexpr std::int64_t linear_int8_stride(std::int64_t inner) {
  return (inner + 63) / 64 * 64 + 64;
}

/// Bytes of x [rows, inner] in eight bits, and of each row its scale and its sum.
constexpr std::size_t linear_int8_quantized_bytes(std::int64_t rows, std::int64_t inner) {
  return static_cast<std::size_t>(rows * (linear_int8_stride(inner) + 8));
}

}  // namespace hybridattn::ops
