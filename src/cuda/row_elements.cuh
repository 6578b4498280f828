// Dense rows of tensors, some elements at a time: 8 (16 bytes of a 16-bit type, two times 16 of
// float, 8 of f8) where all rows begin at multiples of 16 bytes, else one by one.
#pragma once

#include <cuda_fp8.h>

#include "src/cuda/element.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/mma.cuh"

namespace hybridattn::cuda {

/// Elements that a thread moves at once.
inline constexpr int kPack = 8;

/// Where a row begins, and its type.
struct RowElements {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;

  template <class T>
  __device__ T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

/// The row of a tensor with these leading indices. No data, no row.
__device__ inline RowElements row_of(const View& view, std::int64_t i, std::int64_t j = 0,
                                     std::int64_t k = 0) {
  const std::int64_t at = i * view.stride[0] + j * view.stride[1] + k * view.stride[2];
  return {view.data + (at << log2_size(view.dtype)), view.dtype};
}

template <class X>
__device__ inline void unpack_words(const uint4& words, float (&out)[kPack]) {
  const std::uint32_t pairs[] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack<X>(pairs[i]);
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}

template <class X>
__device__ inline uint4 pack_words(const float (&x)[kPack]) {
  return make_uint4(pack<X>(x[0], x[1]), pack<X>(x[2], x[3]), pack<X>(x[4], x[5]),
                    pack<X>(x[6], x[7]));
}

/// Rounded to nearest, cut at 448 (infinity too), NaN stays NaN: as to_f8_e4m3.
__device__ inline std::uint32_t pack_f8(float a, float b, float c, float d) {
  const std::uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const std::uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

/// kPack elements as they lie in memory: on their way until they are unpacked.
struct RawElements {
  uint4 low, high;  // high: of f32 alone
};

/// Elements first .. first + kPack of a row of f32, bf16 or f16.
__device__ inline RawElements fetch_elements(const RowElements& row, std::int64_t first) {
  RawElements raw;
  const bool wide = row.dtype == DType::kF32;
  const auto* from = reinterpret_cast<const uint4*>(row.data + first * (wide ? 4 : 2));
  raw.low = from[0];
  if (wide) raw.high = from[1];
  return raw;
}
__device__ inline void unpack_elements(const RawElements& raw, DType dtype, float (&out)[kPack]) {
  switch (dtype) {
    case DType::kBF16: return unpack_words<__nv_bfloat16>(raw.low, out);
    case DType::kF16: return unpack_words<__half>(raw.low, out);
    default: {
      const std::uint32_t words[] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                                     raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
      for (int i = 0; i < kPack; ++i) out[i] = __uint_as_float(words[i]);
    }
  }
}

/// The same as numbers.
template <int N>
__device__ inline void load_elements(const RowElements& row, std::int64_t first, float (&out)[N]) {
  static_assert(N == kPack);
  unpack_elements(fetch_elements(row, first), row.dtype, out);
}
template <>
__device__ inline void load_elements<1>(const RowElements& row, std::int64_t first,
                                        float (&out)[1]) {
  View view;
  view.data = row.data;
  view.dtype = row.dtype;
  out[0] = load(view, first);
}

/// Rounds to elements first .. first + N of a row of any model or cache type.
template <int N>
__device__ inline void store_elements(const RowElements& row, std::int64_t first,
                                      const float (&x)[N]) {
  static_assert(N == kPack);
  switch (row.dtype) {
    case DType::kBF16:
      *reinterpret_cast<uint4*>(row.as<__nv_bfloat16>() + first) = pack_words<__nv_bfloat16>(x);
      return;
    case DType::kF16:
      *reinterpret_cast<uint4*>(row.as<__half>() + first) = pack_words<__half>(x);
      return;
    case DType::kF8E4M3:
      *reinterpret_cast<uint2*>(row.data + first) =
          make_uint2(pack_f8(x[0], x[1], x[2], x[3]), pack_f8(x[4], x[5], x[6], x[7]));
      return;
    default: {
      auto* to = reinterpret_cast<float4*>(row.as<float>() + first);
      to[0] = make_float4(x[0], x[1], x[2], x[3]);
      to[1] = make_float4(x[4], x[5], x[6], x[7]);
    }
  }
}
template <>
__device__ inline void store_elements<1>(const RowElements& row, std::int64_t first,
                                         const float (&x)[1]) {
  if (row.dtype == DType::kF8E4M3) {
    row.as<__nv_fp8_storage_t>()[first] = __nv_cvt_float_to_fp8(x[0], __NV_SATFINITE, __NV_E4M3);
    return;
  }
  View view;
  view.data = row.data;
  view.dtype = row.dtype;
  store(view, first, x[0]);
}

/// Whether rows of `dim` elements of these tensors can be moved in packs. Those that are not given
/// do not matter.
template <class... Views>
bool in_packs(std::int64_t dim, const Views&... views) {
  return dim % kPack == 0 && ((views.data == nullptr || rows_aligned(views)) && ...);
}

/// index / count and the rest. In 32 bits where it can be: the 64-bit division takes longer than
/// most of what a thread does else.
struct Split {
  std::int64_t whole;
  std::int64_t rest;
};
__device__ inline Split split(std::int64_t index, std::int64_t count) {
  if (static_cast<std::uint64_t>(index | count) >> 32 == 0) {
    const auto whole = static_cast<std::uint32_t>(index) / static_cast<std::uint32_t>(count);
    return {whole, index - whole * count};
  }
  const std::int64_t whole = index / count;
  return {whole, index - whole * count};
}

/// Threads of a block where each takes some elements.
inline constexpr int kElementThreads = 256;

/// Launches a kernel over `elements`, kPack at a time or one by one. Nothing for none.
template <class Params>
Status launch_elements(const char* op, const core::DeviceLaunch& launch, bool packs,
                       void (*packed)(Params), void (*plain)(Params), std::int64_t elements,
                       const Params& params) {
  if (elements == 0) return {};
  const unsigned grid = grid_for(elements / (packs ? kPack : 1), kElementThreads, *launch.info);
  return launch_early(op, launch, packs ? packed : plain, grid, kElementThreads, 0, params);
}

}  // namespace hybridattn::cuda
