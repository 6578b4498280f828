// What attention in bf16 makes its products of: rows of the cache as operands, and weights.
#include <cstring>

#include "src/cpu/attention_sight-inl.h"
#include "src/cpu/bf16_product-inl.h"

#if defined(HYBRIDATTN_CPU_ATTENTION_OPERANDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_ATTENTION_OPERANDS_INL_H_
#undef HYBRIDATTN_CPU_ATTENTION_OPERANDS_INL_H_
#else
#define HYBRIDATTN_CPU_ATTENTION_OPERANDS_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

/// 2^x for x that is not above 0 but for a rounding; 0 for minus infinity. Relative error 2e-7; NaN
/// stays NaN. Half the instructions of exp2_of, by those that take a float apart and scale one.
HWY_INLINE VF exp2_down(VF x) {
  const DF d;
  constexpr int kFromFloor = 0x9;  // what is above the whole number below; no exception
  const VF part{_mm512_reduce_ps(x.raw, kFromFloor)};
  // Minimax on [0, 1] with 1 at 0.
  VF p = hn::Set(d, 0.00186713005f);
  p = hn::MulAdd(p, part, hn::Set(d, 0.00901703071f));
  p = hn::MulAdd(p, part, hn::Set(d, 0.0557999127f));
  p = hn::MulAdd(p, part, hn::Set(d, 0.240164444f));
  p = hn::MulAdd(p, part, hn::Set(d, 0.693151295f));
  p = hn::MulAdd(p, part, hn::Set(d, 1.0f));
  return VF{_mm512_scalef_ps(p.raw, x.raw)};  // by 2^floor(x)
}

/// What makes exponents of 2 of products of q and k: a factor, and before it what a factor cannot
/// do. Maxima are taken of the products, so that the factor must be above 0.
class Exponents {
 public:
  /// `k_scale`: of the key head.
  Exponents(const AttentionOptions& options, float k_scale)
      : finish_(options, k_scale), bends_(options.logit_cap > 0 || options.scale < 0),
        factor_(bends_ ? 1.0f : options.scale * k_scale * kLog2E) {}
  float factor() const { return factor_; }
  bool bends() const { return bends_; }
  HWY_INLINE VF bend(VF product) const { return hn::Mul(finish_(product), hn::Set(DF(), kLog2E)); }

 private:
  Logits finish_;
  bool bends_;
  float factor_;
};

/// A cached row as bf16: where it lies, or converted into `copy`.
inline const BF16* bf16_row(const std::byte* row, DType dtype, std::int64_t dim, BF16* copy) {
  if (dtype == DType::kBF16) return reinterpret_cast<const BF16*>(row);
  for (std::int64_t i = 0; i < dim; i += kTileSide) {
    store_part(load_full(reinterpret_cast<const F8E4M3*>(row) + i), copy + i, kTileSide);
  }
  return copy;
}

// Values become right operands by interleaving, which leaves their columns in another order: of 32
// the first vector holds the lower halves of the blocks of eight. Sums are put in order at the end.

/// Two rows as pairs of inner elements.
HWY_INLINE void interleave_rows(const BF16* first, const BF16* second, std::int64_t dim,
                                std::uint32_t* pairs) {
  const hn::Repartition<std::uint16_t, DF> d16;
  std::int64_t i = 0;
  for (; i + kTileInner <= dim; i += kTileInner) {
    const auto a = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(first + i));
    const auto b = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(second + i));
    hn::StoreU(hn::BitCast(DU(), hn::InterleaveLower(d16, a, b)), DU(), pairs + i);
    hn::StoreU(hn::BitCast(DU(), hn::InterleaveUpper(d16, a, b)), DU(), pairs + i + kTileSide);
  }
  if (i < dim) hn::StoreU(pair_of(first + i, second + i), DU(), pairs + i);
}

/// Sums over interleaved rows as the columns lie in memory.
inline void straighten(std::int64_t dim, float* sums) {
  for (std::int64_t i = 0; i + kTileInner <= dim; i += kTileInner) {
    float copy[kTileInner];
    std::memcpy(copy, sums + i, sizeof copy);
    for (std::int64_t b = 0; b < 4; ++b) {
      std::memcpy(sums + i + 8 * b, copy + 4 * b, 4 * sizeof(float));
      std::memcpy(sums + i + 8 * b + 4, copy + kTileSide + 4 * b, 4 * sizeof(float));
    }
  }
}

/// Whether a row, a multiple of 16 long, has neither infinities nor NaN.
inline bool all_finite(const BF16* row, std::int64_t dim) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const auto exponent = hn::Set(d16, std::uint16_t{0x7f80});
  auto infinite = hn::MaskFalse(d16);
  for (std::int64_t i = 0; i < dim; i += kTileSide) {
    const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(row + i));
    infinite = hn::Or(infinite, hn::Eq(hn::And(bits, exponent), exponent));
  }
  return hn::AllFalse(d16, infinite);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_ATTENTION_OPERANDS_INL_H_
