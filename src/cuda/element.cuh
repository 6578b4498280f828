// Elements of tensors in device code: typed by the run-time dtype, addressed with 64 bits.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/tensor.h"

namespace hybridattn::cuda {

/// A tensor of up to four dimensions as kernels get it. Strides count elements.
struct View {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t stride[kMaxRank] = {};

  View() = default;
  template <class Void>
  explicit View(const BasicTensorView<Void>& view)
      : data(static_cast<std::byte*>(const_cast<void*>(view.data))), dtype(view.dtype) {
    for (int d = 0; d < view.rank; ++d) stride[d] = view.stride(d);
  }

  __device__ std::int64_t at(std::int64_t i, std::int64_t j = 0, std::int64_t k = 0,
                             std::int64_t l = 0) const {
    return i * stride[0] + j * stride[1] + k * stride[2] + l * stride[3];
  }
  template <class T>
  __device__ T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

/// log2(dtype_size(dtype)), without a branch: four bits for each type.
constexpr int log2_size(DType dtype) {
  return static_cast<int>(0x00323112u >> (4 * static_cast<unsigned>(dtype))) & 7;
}
static_assert([] {
  for (unsigned i = 0; i <= static_cast<unsigned>(DType::kI8); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (std::size_t{1} << log2_size(dtype) != dtype_size(dtype)) return false;
  }
  return true;
}());

/// Whether each row of the last dimension begins at a multiple of 16 bytes.
inline bool rows_aligned(const ConstTensorView& view) {
  const auto size = static_cast<std::int64_t>(dtype_size(view.dtype));
  auto bits = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(view.data));
  for (int d = 0; d + 1 < view.rank; ++d) bits |= view.stride(d) * size;
  return bits % 16 == 0;
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }

template <class T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

/// Element `at` of f32, bf16 or f16 data.
__device__ inline float load(const View& view, std::int64_t at) {
  if (view.dtype == DType::kF32) return view.as<const float>()[at];
  const unsigned short bits = view.as<const unsigned short>()[at];
  const float half = to_float(__ushort_as_half(bits));
  return view.dtype == DType::kBF16 ? to_float(__ushort_as_bfloat16(bits)) : half;
}

__device__ inline void store(const View& view, std::int64_t at, float value) {
  switch (view.dtype) {
    case DType::kBF16: view.as<__nv_bfloat16>()[at] = from_float<__nv_bfloat16>(value); return;
    case DType::kF16: view.as<__half>()[at] = from_float<__half>(value); return;
    default: view.as<float>()[at] = value;
  }
}

/// Rows of a batch in device code.
struct Row {
  std::int32_t start, length, slot, computed;
};
__device__ inline Row load_row(const DeviceRowTables& rows, int row) {
  return {rows.start[row], rows.length[row], rows.slot[row], rows.computed[row]};
}

}  // namespace hybridattn::cuda
