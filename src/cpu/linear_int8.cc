// Matrix products in bytes: x is rounded row by row, then the walk is that of linear.
#include <limits>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/linear_int8.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/kernels.h"
#include "src/cpu/linear_amx-inl.h"
#include "src/cpu/linear_blocks-inl.h"
#include "src/cpu/variants.h"
#include "src/ops/linear_int8_tile_params.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// x in bytes, and of each row its scale and its sum.
struct QuantizedRows {
  explicit QuantizedRows(const ops::LinearInt8Params& p)
      : inner(p.x.dim(1)), stride(ops::linear_int8_stride(inner)),
        bytes(reinterpret_cast<std::int8_t*>(p.quantized)),
        scales(reinterpret_cast<float*>(bytes + p.x.dim(0) * stride)),
        sums(reinterpret_cast<std::int32_t*>(scales + p.x.dim(0))) {}

  std::int64_t inner, stride;
  std::int8_t* bytes;  // [M, stride]
  float* scales;       // [M]
  std::int32_t* sums;  // [M]
};

/// The largest magnitude of a row, as the bits of a float: those of an infinity or a NaN are above
/// all others.
template <class T>
std::int32_t top_bits(const T* x, std::int64_t n) {
  const hn::RebindToSigned<DF> di;
  auto top = hn::Zero(di);
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    top = hn::Max(top, hn::BitCast(di, hn::Abs(load_part(x + i, count))));
  });
  return hn::ReduceMax(di, top);
}

template <class T>
void quantize_row(const T* x, std::int64_t row, const QuantizedRows& q) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<std::int8_t, DF> d8;
  std::int8_t* to = q.bytes + row * q.stride;
  std::memset(to + q.inner, 0, static_cast<std::size_t>(q.stride - q.inner));
  float top;
  const std::int32_t bits = top_bits(x, q.inner);
  std::memcpy(&top, &bits, sizeof(top));
  const bool finite = bits < 0x7f800000;
  if (!finite || !(top > 0x1p-100f)) {
    std::memset(to, 0, static_cast<std::size_t>(q.inner));
    q.scales[row] = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    q.sums[row] = 0;
    return;
  }
  const VF factor = hn::Set(DF(), 127.0f / top);
  auto sum = hn::Zero(di);
  for_vectors(q.inner, [&](std::int64_t i, std::int64_t count) {
    const auto rounded = hn::NearestInt(hn::Mul(load_part(x + i, count), factor));
    sum = hn::Add(sum, rounded);
    hn::StoreN(hn::DemoteTo(d8, rounded), d8, to + i, static_cast<std::size_t>(count));
  });
  q.scales[row] = top / 127;
  q.sums[row] = hn::ReduceSum(di, sum);
}

void quantize(const ops::LinearInt8Params& p, std::int64_t row, const QuantizedRows& q) {
  const std::byte* x = row2(p.x, row);
  switch (p.x.dtype) {
    case DType::kBF16: return quantize_row(reinterpret_cast<const BF16*>(x), row, q);
    case DType::kF16: return quantize_row(reinterpret_cast<const F16*>(x), row, q);
    default: return quantize_row(reinterpret_cast<const float*>(x), row, q);
  }
}

/// Products of x in bytes in vectors.
void multiply_bytes(const ops::LinearParams& bytes, const QuantizedRows& q,
                    const float* weight_scales, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const auto finish = [&](std::int64_t row, std::int64_t column, std::int64_t columns,
                          float* sums) HWY_ATTR {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const auto* whole = reinterpret_cast<const std::int32_t*>(sums);
    const auto excess = hn::Set(di, 128 * q.sums[row]);
    const VF scale = hn::Set(d, q.scales[row]);
    for_vectors(columns, [&](std::int64_t i, std::int64_t count) HWY_ATTR {
      const auto sum = hn::Sub(hn::LoadN(di, whole + i, static_cast<std::size_t>(count)), excess);
      const VF scales = hn::Mul(scale, load_part(weight_scales + column + i, count));
      store_part(hn::Mul(scales, hn::ConvertTo(d, sum)), sums + i, count);
    });
  };
  for_blocks(bytes, launch, [&](const Block& block, const Scratch& scratch) {
    run_block<Int8Product>(bytes, block, finish, scratch);
  });
}

void linear_int8(const ops::LinearInt8Params& p, core::Launch& launch) {
  const QuantizedRows q(p);
  const std::int64_t rows = p.x.dim(0);
  constexpr std::int64_t kRows = 8;  // of one task
  parallel_for(launch.executor, (rows + kRows - 1) / kRows, [&](auto task, int) {
    for (std::int64_t m = task * kRows; m < rows && m < (task + 1) * kRows; ++m) quantize(p, m, q);
  });
  const auto* weight_scales = static_cast<const float*>(p.weight_scale.data);
  ops::LinearParams bytes{ConstTensorView(q.bytes, DType::kI8, {rows, q.inner}, {q.stride, 1}),
                          p.weight,
                          p.out,
                          p.accumulate,
                          p.gate,
                          nullptr};
#if HYBRIDATTN_TARGET_HAS_TILES
  // Sums are exact, so rows may take either way; vectors read the weights of few rows faster.
  constexpr std::int64_t kRowsInVectors = 4;
  if (launch.isa == Isa::kAmx && rows > kRowsInVectors) {
    bytes.packed_x = reinterpret_cast<std::uint32_t*>(
        p.quantized + ops::linear_int8_packed_offset(rows, q.inner));
    return linear_tiles(Int8Tiles{q.scales, weight_scales}, bytes, launch);
  }
#endif
  multiply_bytes(bytes, q, weight_scales, launch);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(linear_int8);

core::CpuVariants<ops::LinearInt8Params> linear_int8_variants() {
  return variants<ops::LinearInt8Params>(HWY_DISPATCH_TABLE(linear_int8));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
