#include "engine/model/int8_rows.h"

#include <bit>
#include <cstring>
#include <limits>
#include <vector>

namespace hybridattn::engine {
namespace {

void widen_row(const std::byte* row, DType dtype, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    // Through memcpy: a file may place a tensor at any byte.
    if (dtype == DType::kF32) {
      std::memcpy(out + i, row + i * 4, sizeof(float));
      continue;
    }
    std::uint16_t bits;
    std::memcpy(&bits, row + i * 2, sizeof(bits));
    out[i] = dtype == DType::kBF16 ? to_float(BF16{bits}) : to_float(F16{bits});
  }
}

/// The bits of the largest magnitude: those of an infinity or a NaN are above all others.
std::uint32_t top_bits(const float* row, std::int64_t count) {
  std::uint32_t top = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(row[i]) & 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  return top;
}

float round_row(const float* row, std::int64_t count, std::int8_t* out) {
  const std::uint32_t bits = top_bits(row, count);
  const bool finite = bits < 0x7f800000u;
  const float top = finite ? std::bit_cast<float>(bits) : 0.0f;
  const float factor = top > 0x1p-100f ? 127.0f / top : 0.0f;
  for (std::int64_t i = 0; i < count; ++i) {
    // The sum's unit is 1, so that it is rounded to a whole number, ties to even.
    const float shifted = (finite ? row[i] * factor : 0.0f) + 0x1.8p23f;
    out[i] = static_cast<std::int8_t>(std::bit_cast<std::int32_t>(shifted) -
                                      std::bit_cast<std::int32_t>(0x1.8p23f));
  }
  if (!finite) return std::numeric_limits<float>::quiet_NaN();
  return factor > 0 ? top / 127 : 0.0f;
}

}  // namespace

void to_int8_rows(const ConstTensorView& matrix, std::int64_t rows, std::int64_t columns,
                  Executor* executor, std::int8_t* out, float* scale) {
  constexpr std::int64_t kRows = 64;  // of one task
  const auto* data = static_cast<const std::byte*>(matrix.data);
  const auto row_bytes = columns * static_cast<std::int64_t>(dtype_size(matrix.dtype));
  const auto task = [&](std::int64_t index, int) {
    std::vector<float> row(static_cast<std::size_t>(columns));
    for (std::int64_t r = index * kRows; r < rows && r < (index + 1) * kRows; ++r) {
      widen_row(data + r * row_bytes, matrix.dtype, columns, row.data());
      scale[r] = round_row(row.data(), columns, out + r * columns);
    }
  };
  const std::int64_t tasks = (rows + kRows - 1) / kRows;
  if (executor != nullptr) {
    parallel_for(*executor, tasks, task);
  } else {
    for (std::int64_t index = 0; index < tasks; ++index) task(index, 0);
  }
}

}  // namespace hybridattn::engine
