// Reads and writes single elements of any dtype as double.
#pragma once

#include <cstring>

#include "hybridattn/tensor.h"
#include "src/core/formulas.h"

namespace hybridattn::reference {

template <class View>
std::int64_t offset_of(const View& view, std::int64_t i, std::int64_t j, std::int64_t k,
                       std::int64_t l) {
  return i * view.stride(0) + j * view.stride(1) + k * view.stride(2) + l * view.stride(3);
}

inline double load(const ConstTensorView& view, std::int64_t i, std::int64_t j = 0,
                   std::int64_t k = 0, std::int64_t l = 0) {
  const std::int64_t at = offset_of(view, i, j, k, l);
  switch (view.dtype) {
    case DType::kF32: return static_cast<const float*>(view.data)[at];
    case DType::kBF16: return to_float(static_cast<const BF16*>(view.data)[at]);
    case DType::kF16: return to_float(static_cast<const F16*>(view.data)[at]);
    case DType::kF8E4M3: return to_float(static_cast<const F8E4M3*>(view.data)[at]);
    case DType::kF64: return static_cast<const double*>(view.data)[at];
    case DType::kI8: return static_cast<const std::int8_t*>(view.data)[at];
    default: return 0;
  }
}

inline void store(const TensorView& view, double value, std::int64_t i, std::int64_t j = 0,
                  std::int64_t k = 0, std::int64_t l = 0) {
  const std::int64_t at = offset_of(view, i, j, k, l);
  const auto rounded = static_cast<float>(value);
  switch (view.dtype) {
    case DType::kF32: static_cast<float*>(view.data)[at] = rounded; return;
    case DType::kBF16: static_cast<BF16*>(view.data)[at] = to_bf16(rounded); return;
    case DType::kF16: static_cast<F16*>(view.data)[at] = to_f16(rounded); return;
    case DType::kF8E4M3: static_cast<F8E4M3*>(view.data)[at] = to_f8_e4m3(rounded); return;
    case DType::kF64: static_cast<double*>(view.data)[at] = value; return;
    default: return;
  }
}

inline double silu(double x) { return x * core::sigmoid(x); }

}  // namespace hybridattn::reference
