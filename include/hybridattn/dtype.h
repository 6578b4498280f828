// Element types and the scalar conversions between them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "hybridattn/export.h"

namespace hybridattn {

/// Element type of a tensor. kF64 is for the reference forms of the ops alone; kF8E4M3 is for keys
/// and values at rest (OCP FP8 E4M3: no infinity, one NaN, largest value 448); kI8 is for weights
/// of linear_int8.
enum class DType : std::uint8_t { kF32, kBF16, kF16, kF64, kI32, kI64, kF8E4M3, kI8 };

/// Size of one element in bytes.
constexpr std::size_t dtype_size(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF8E4M3:
    case DType::kI8: return 1;
    case DType::kBF16:
    case DType::kF16: return 2;
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF64:
    case DType::kI64: return 8;
  }
  return 0;
}

/// "f32", "bf16", "f16", "f64", "i32", "i64", "f8_e4m3", "i8".
HYBRIDATTN_API std::string_view dtype_name(DType dtype) noexcept;

/// True for the types that every float op takes: f32, bf16, f16.
constexpr bool is_model_float(DType dtype) noexcept {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

/// True for the types that a KV cache may have: the model types and f8_e4m3.
constexpr bool is_cache_float(DType dtype) noexcept {
  return is_model_float(dtype) || dtype == DType::kF8E4M3;
}

/// bfloat16 as its bits: the upper half of an IEEE float.
struct BF16 {
  std::uint16_t bits;
};
/// IEEE binary16 as its bits.
struct F16 {
  std::uint16_t bits;
};
/// OCP FP8 E4M3 as its bits: sign, 4 bits of exponent (bias 7), 3 of mantissa.
struct F8E4M3 {
  std::uint8_t bits;
};

/// The DType of a C++ type.
template <class T>
inline constexpr DType dtype_of = T::no_such_dtype;
template <>
inline constexpr DType dtype_of<float> = DType::kF32;
template <>
inline constexpr DType dtype_of<BF16> = DType::kBF16;
template <>
inline constexpr DType dtype_of<F16> = DType::kF16;

constexpr float to_float(BF16 value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

/// Rounds to nearest, ties to even; NaN stays NaN (quiet).
constexpr BF16 to_bf16(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return BF16{static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  }
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return BF16{static_cast<std::uint16_t>(rounded >> 16)};
}

HYBRIDATTN_API float to_float(F16 value) noexcept;
/// Rounds to nearest, ties to even; overflow gives infinity.
HYBRIDATTN_API F16 to_f16(float value) noexcept;

HYBRIDATTN_API float to_float(F8E4M3 value) noexcept;
/// Rounds to nearest, ties to even; what is beyond 448 (infinity too) becomes 448, NaN stays NaN.
HYBRIDATTN_API F8E4M3 to_f8_e4m3(float value) noexcept;

}  // namespace hybridattn
