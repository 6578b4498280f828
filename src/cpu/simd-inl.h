// Rows of any element type as float32 vectors: loads, stores, sums, gates. Written once over
// Highway and compiled for each instruction set; included inside a kernel file after
// foreach_target.h.
#include <cstdint>
#include <cstring>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "hybridattn/tensor.h"
#include "src/core/kernel.h"

#if defined(HYBRIDATTN_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_SIMD_INL_H_
#undef HYBRIDATTN_CPU_SIMD_INL_H_
#else
#define HYBRIDATTN_CPU_SIMD_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

inline std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(DF())); }

/// Address of an element, in 64-bit arithmetic.
inline const std::byte* element(const ConstTensorView& view, std::int64_t offset) {
  return static_cast<const std::byte*>(view.data) +
         offset * static_cast<std::int64_t>(dtype_size(view.dtype));
}
inline std::byte* element(const TensorView& view, std::int64_t offset) {
  return static_cast<std::byte*>(view.data) +
         offset * static_cast<std::int64_t>(dtype_size(view.dtype));
}
template <class View>
auto row2(const View& view, std::int64_t i) {
  return element(view, i * view.stride(0));
}
template <class View>
auto row3(const View& view, std::int64_t i, std::int64_t j) {
  return element(view, i * view.stride(0) + j * view.stride(1));
}
template <class View>
auto row4(const View& view, std::int64_t i, std::int64_t j, std::int64_t k) {
  return element(view, i * view.stride(0) + j * view.stride(1) + k * view.stride(2));
}

/// `count` <= lanes() elements as floats; the rest of the vector is 0.
inline VF load_part(const float* src, std::int64_t count) {
  return hn::LoadN(DF(), src, static_cast<std::size_t>(count));
}
inline VF load_part(const BF16* src, std::int64_t count) {
  const hn::Rebind<hwy::bfloat16_t, DF> db;
  return hn::PromoteTo(DF(), hn::LoadN(db, reinterpret_cast<const hwy::bfloat16_t*>(src),
                                       static_cast<std::size_t>(count)));
}
inline VF load_part(const F16* src, std::int64_t count) {
  const hn::Rebind<hwy::float16_t, DF> dh;
  return hn::PromoteTo(DF(), hn::LoadN(dh, reinterpret_cast<const hwy::float16_t*>(src),
                                       static_cast<std::size_t>(count)));
}
/// f8_e4m3 widened: shifted into the fields of f16, whose exponent has 8 more of bias.
inline VF widen_f8(hn::Vec<hn::Rebind<std::uint8_t, DF>> bytes) {
  const hn::Rebind<std::uint16_t, DF> du;
  const hn::Rebind<hwy::float16_t, DF> dh;
  const auto wide = hn::PromoteTo(du, bytes);
  const auto magnitude = hn::And(wide, hn::Set(du, std::uint16_t{0x7f}));
  const auto sign = hn::ShiftLeft<8>(hn::And(wide, hn::Set(du, std::uint16_t{0x80})));
  const auto nan = hn::Eq(magnitude, hn::Set(du, std::uint16_t{0x7f}));
  const auto finite = hn::ShiftLeft<7>(magnitude);
  const auto bits = hn::IfThenElse(nan, hn::Set(du, std::uint16_t{0x7e00}), finite);
  return hn::Mul(hn::PromoteTo(DF(), hn::BitCast(dh, hn::Or(bits, sign))), hn::Set(DF(), 256.0f));
}
inline VF load_part(const F8E4M3* src, std::int64_t count) {
  const hn::Rebind<std::uint8_t, DF> db;
  return widen_f8(
      hn::LoadN(db, reinterpret_cast<const std::uint8_t*>(src), static_cast<std::size_t>(count)));
}
inline VF load_full(const F8E4M3* src) {
  const hn::Rebind<std::uint8_t, DF> db;
  return widen_f8(hn::LoadU(db, reinterpret_cast<const std::uint8_t*>(src)));
}
inline VF load_full(const float* src) { return hn::LoadU(DF(), src); }
inline VF load_full(const BF16* src) {
  const hn::Rebind<hwy::bfloat16_t, DF> db;
  return hn::PromoteTo(DF(), hn::LoadU(db, reinterpret_cast<const hwy::bfloat16_t*>(src)));
}
inline VF load_full(const F16* src) {
  const hn::Rebind<hwy::float16_t, DF> dh;
  return hn::PromoteTo(DF(), hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(src)));
}

inline void store_part(VF value, float* dst, std::int64_t count) {
  hn::StoreN(value, DF(), dst, static_cast<std::size_t>(count));
}
inline void store_part(VF value, BF16* dst, std::int64_t count) {
  const hn::Rebind<hwy::bfloat16_t, DF> db;
  hn::StoreN(hn::DemoteTo(db, value), db, reinterpret_cast<hwy::bfloat16_t*>(dst),
             static_cast<std::size_t>(count));
}
inline void store_part(VF value, F16* dst, std::int64_t count) {
  const hn::Rebind<hwy::float16_t, DF> dh;
  hn::StoreN(hn::DemoteTo(dh, value), dh, reinterpret_cast<hwy::float16_t*>(dst),
             static_cast<std::size_t>(count));
}

inline void store_full(VF value, float* dst) { hn::StoreU(value, DF(), dst); }
inline void store_full(VF value, BF16* dst) {
  const hn::Rebind<hwy::bfloat16_t, DF> db;
  hn::StoreU(hn::DemoteTo(db, value), db, reinterpret_cast<hwy::bfloat16_t*>(dst));
}
inline void store_full(VF value, F16* dst) {
  const hn::Rebind<hwy::float16_t, DF> dh;
  hn::StoreU(hn::DemoteTo(dh, value), dh, reinterpret_cast<hwy::float16_t*>(dst));
}

template <class T>
void convert_to_f32(const T* src, std::int64_t n, float* dst) {
  const std::int64_t step = lanes();
  std::int64_t i = 0;
  for (; i + step <= n; i += step) hn::StoreU(load_full(src + i), DF(), dst + i);
  if (i < n) store_part(load_part(src + i, n - i), dst + i, n - i);
}
template <class T>
void convert_from_f32(const float* src, std::int64_t n, T* dst) {
  const std::int64_t step = lanes();
  for (std::int64_t i = 0; i < n; i += step) {
    const std::int64_t count = n - i < step ? n - i : step;
    store_part(load_part(src + i, count), dst + i, count);
  }
}

/// Copies `n` dense elements of any model or cache type to floats.
inline void load_row(const void* src, DType dtype, std::int64_t n, float* dst) {
  switch (dtype) {
    case DType::kBF16: return convert_to_f32(static_cast<const BF16*>(src), n, dst);
    case DType::kF16: return convert_to_f32(static_cast<const F16*>(src), n, dst);
    case DType::kF8E4M3: return convert_to_f32(static_cast<const F8E4M3*>(src), n, dst);
    default: std::memcpy(dst, src, static_cast<std::size_t>(n) * sizeof(float));
  }
}
/// The same, without a copy where the source is float already.
inline const float* row_f32(const void* src, DType dtype, std::int64_t n, float* scratch) {
  if (dtype == DType::kF32) return static_cast<const float*>(src);
  load_row(src, dtype, n, scratch);
  return scratch;
}
/// Rounds `n` floats to the destination's type.
inline void store_row(const float* src, std::int64_t n, void* dst, DType dtype) {
  switch (dtype) {
    case DType::kBF16: return convert_from_f32(src, n, static_cast<BF16*>(dst));
    case DType::kF16: return convert_from_f32(src, n, static_cast<F16*>(dst));
    case DType::kF8E4M3:
      for (std::int64_t i = 0; i < n; ++i) static_cast<F8E4M3*>(dst)[i] = to_f8_e4m3(src[i]);
      return;
    default:
      if (dst != src) std::memcpy(dst, src, static_cast<std::size_t>(n) * sizeof(float));
  }
}
inline void zero_row(std::int64_t n, void* dst, DType dtype) {
  std::memset(dst, 0, static_cast<std::size_t>(n) * dtype_size(dtype));
}

/// Calls f(offset, count) for whole vectors and then for the rest; count <= lanes().
template <class F>
void for_vectors(std::int64_t n, const F& f) {
  const std::int64_t step = lanes();
  std::int64_t i = 0;
  for (; i + step <= n; i += step) f(i, step);
  if (i < n) f(i, n - i);
}

inline float sum_squares(const float* x, std::int64_t n) {
  VF sum = hn::Zero(DF());
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const VF v = load_part(x + i, count);
    sum = hn::MulAdd(v, v, sum);
  });
  return hn::ReduceSum(DF(), sum);
}

/// dst = x * factor
inline void scale_row(const float* x, float factor, std::int64_t n, float* dst) {
  const VF f = hn::Set(DF(), factor);
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    store_part(hn::Mul(load_part(x + i, count), f), dst + i, count);
  });
}

/// dst = x / divisor, which is not x times a rounded reciprocal.
inline void divide_row(const float* x, float divisor, std::int64_t n, float* dst) {
  const VF f = hn::Set(DF(), divisor);
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    store_part(hn::Div(load_part(x + i, count), f), dst + i, count);
  });
}

/// 2^(whole + part), `whole` a whole number of at most 127, |part| <= 1/2; 0 where whole <= -127.
HWY_INLINE VF exp2_parts(VF whole, VF part) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  // Taylor's series of 2^part: the next term is at most 1.2e-7.
  VF p = hn::Set(d, 1.5403530e-4f);
  p = hn::MulAdd(p, part, hn::Set(d, 1.3333558e-3f));
  p = hn::MulAdd(p, part, hn::Set(d, 9.6181291e-3f));
  p = hn::MulAdd(p, part, hn::Set(d, 5.5504109e-2f));
  p = hn::MulAdd(p, part, hn::Set(d, 2.4022651e-1f));
  p = hn::MulAdd(p, part, hn::Set(d, 6.9314718e-1f));
  p = hn::MulAdd(p, part, hn::Set(d, 1.0f));
  const auto exponent = hn::Add(hn::NearestInt(whole), hn::Set(di, 127));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(exponent)));
}

/// 2^x for x < 128; 0 below -126. Relative error 3e-7; NaN stays NaN.
HWY_INLINE VF exp2_of(VF x) {
  x = hn::Max(hn::Set(DF(), -127.0f), x);  // in this order: of two operands x86 gives the second
  const VF whole = hn::Round(x);
  return exp2_parts(whole, hn::Sub(x, whole));
}

/// e^x for x < 88; 0 below -87. Relative error 3e-7; NaN stays NaN.
HWY_INLINE VF exp_of(VF x) {
  const DF d;
  x = hn::Max(hn::Set(d, -88.0f), x);
  const VF log2e = hn::Set(d, 1.44269504f);
  const VF scaled = hn::Mul(x, log2e);
  // What the product lost, and what the constant did.
  const VF rest = hn::MulAdd(x, hn::Set(d, 1.9259630e-8f), hn::MulSub(x, log2e, scaled));
  const VF whole = hn::Round(scaled);
  return exp2_parts(whole, hn::Add(hn::Sub(scaled, whole), rest));
}

/// 1 / x for x in [1, 2^126].
HWY_INLINE VF reciprocal_of(VF x) {
  const DF d;
  if constexpr (HWY_TARGET <= HWY_AVX3) {
    // Fourteen bits, doubled; a division takes three times as long.
    const VF r = hn::ApproximateReciprocal(x);
    return hn::MulAdd(r, hn::NegMulAdd(x, r, hn::Set(d, 1.0f)), r);
  } else {
    return hn::Div(hn::Set(d, 1.0f), x);
  }
}

/// 1 / (1 + exp(-x)). Below -87 exp would leave the float range; NaN stays NaN.
HWY_INLINE VF sigmoid(VF x) {
  const DF d;
  const VF cut = hn::Max(hn::Set(d, -87.0f), x);
  return reciprocal_of(hn::Add(hn::Set(d, 1.0f), exp_of(hn::Neg(cut))));
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_SIMD_INL_H_
