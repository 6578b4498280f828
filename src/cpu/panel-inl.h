// Products with weights as stored, [n, k] with k dense: a vector holds one k of neighbouring
// columns n, got by turning small blocks of rows in registers.
//
// Every output is a sum over runs of inner elements, each run summed one unit after the other and
// then added to the runs before it. That order knows nothing of the rows and columns beside an
// output, and short runs keep the rounding of float products small.
#include "src/cpu/simd-inl.h"

#if defined(HYBRIDATTN_CPU_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_PANEL_INL_H_
#undef HYBRIDATTN_CPU_PANEL_INL_H_
#else
#define HYBRIDATTN_CPU_PANEL_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

using DU = hn::RebindToUnsigned<DF>;
using VU = hn::Vec<DU>;

/// Inner elements that are packed at a time: a panel of them fits the second-level cache.
inline constexpr std::int64_t kSlab = 512;
/// A tile of outputs: rows times vectors of columns. 24 sums of AVX-512's 32 registers, 12 of 16.
inline constexpr int kPanelRows = 6;
inline constexpr int kPanelVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

inline std::int64_t panel_columns() { return kPanelVectors * lanes(); }

// ---- What is multiplied. A unit is 32 bits of a row: one float, or a pair of 16-bit values.

/// Float products: a 16-bit weight is widened first.
template <class TW>
struct FloatProduct {
  using Weight = TW;
  static constexpr std::int64_t kPerUnit = 1;  // inner elements of one unit of x and of the panel
  static constexpr std::int64_t kRun = 64;     // units of one run

  static HWY_INLINE VF add(VU x, VU w, VF sum) {
    const DF d;
    return hn::MulAdd(hn::BitCast(d, x), hn::BitCast(d, w), sum);
  }
  /// Calls f(unit) for the panel's units in one unit of stored weights.
  template <class F>
  static HWY_INLINE void widen(VU stored, const F& f) {
    const DU d;
    if constexpr (std::is_same_v<TW, BF16>) {
      f(hn::ShiftLeft<16>(stored));
      f(hn::And(stored, hn::Set(d, 0xFFFF0000u)));
    } else if constexpr (std::is_same_v<TW, F16>) {
      f(widen_f16(stored));
      f(widen_f16(hn::ShiftRight<16>(stored)));
    } else {
      f(stored);
    }
  }
  static HWY_INLINE VU widen_f16(VU low_half) {
    const hn::Rebind<std::uint16_t, DF> d16;
    const hn::Rebind<hwy::float16_t, DF> dh;
    return hn::BitCast(DU(), hn::PromoteTo(DF(), hn::BitCast(dh, hn::TruncateTo(d16, low_half))));
  }
};

#if HWY_NATIVE_DOT_BF16
/// bf16 dot products: two products at a time are added to a float.
struct Bf16Product {
  using Weight = BF16;
  static constexpr std::int64_t kPerUnit = 2;
  static constexpr std::int64_t kRun = 256;  // the rounding of the inputs outweighs that of the sum

  static HWY_INLINE VF add(VU x, VU w, VF sum) {
    const hn::Repartition<hwy::bfloat16_t, DF> d;
    VF unused = hn::Zero(DF());
    return hn::ReorderWidenMulAccumulate(DF(), hn::BitCast(d, x), hn::BitCast(d, w), sum, unused);
  }
  template <class F>
  static HWY_INLINE void widen(VU stored, const F& f) {
    f(stored);
  }
};
#endif

// ---- Turning.

/// Elements of T in the four units that one turn covers.
template <class T>
inline constexpr std::int64_t kTurn = 16 / static_cast<std::int64_t>(sizeof(T));

/// One 128-bit block of every fourth row: block b is from rows[4 b]. The first `count` elements of
/// each; the rest is 0.
template <bool kFull, class D, class T>
HWY_INLINE hn::Vec<D> load_blocks(D d, const T* const* rows, std::int64_t at, std::int64_t count) {
  if constexpr (HWY_MAX_LANES_D(D) <= 4) {
    const hn::Repartition<hwy::UnsignedFromSize<sizeof(T)>, D> dt;
    const auto* source = reinterpret_cast<const hn::TFromD<decltype(dt)>*>(rows[0] + at);
    if constexpr (kFull) return hn::BitCast(d, hn::LoadU(dt, source));
    return hn::BitCast(d, hn::LoadN(dt, source, static_cast<std::size_t>(count)));
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks<kFull>(half, rows + HWY_MAX_LANES_D(D) / 2, at, count),
                       load_blocks<kFull>(half, rows, at, count));
  }
}

/// turned[u], lane r = unit u after `at` of rows[r], for four units and lanes() rows.
template <bool kFull, class T>
HWY_INLINE void turn(const T* const* rows, std::int64_t at, std::int64_t count, VU* turned) {
  const DU d;
  const hn::RepartitionToWide<DU> dw;
  const auto block = [&](int r) HWY_ATTR __attribute__((always_inline)) {
    return load_blocks<kFull>(d, rows + r, at, count);
  };
  const VU r0 = block(0), r1 = block(1), r2 = block(2), r3 = block(3);
  const auto low01 = hn::BitCast(dw, hn::InterleaveLower(d, r0, r1));
  const auto high01 = hn::BitCast(dw, hn::InterleaveUpper(d, r0, r1));
  const auto low23 = hn::BitCast(dw, hn::InterleaveLower(d, r2, r3));
  const auto high23 = hn::BitCast(dw, hn::InterleaveUpper(d, r2, r3));
  turned[0] = hn::BitCast(d, hn::InterleaveLower(dw, low01, low23));
  turned[1] = hn::BitCast(d, hn::InterleaveUpper(dw, low01, low23));
  turned[2] = hn::BitCast(d, hn::InterleaveLower(dw, high01, high23));
  turned[3] = hn::BitCast(d, hn::InterleaveUpper(dw, high01, high23));
}

// ---- Tiles. Sums are added to c, whose rows lie `c_stride` floats apart.

inline std::uint32_t load_unit(const std::byte* row, std::int64_t unit) {
  std::uint32_t value;
  std::memcpy(&value, row + unit * 4, sizeof value);
  return value;
}

/// The panel of `count` <= kSlab elements from `at` on: [units, panel_columns()].
template <class Product>
inline void pack_panel(const typename Product::Weight* const* rows, std::int64_t at,
                       std::int64_t count, std::uint32_t* panel) {
  using T = typename Product::Weight;
  const std::int64_t columns = panel_columns();
  for (int v = 0; v < kPanelVectors; ++v) {
    std::uint32_t* to = panel + v * lanes();
    const auto store = [&](const VU* turned) HWY_ATTR {
      for (int u = 0; u < 4; ++u) {
        Product::widen(turned[u], [&](VU unit) HWY_ATTR {
          hn::StoreU(unit, DU(), to);
          to += columns;
        });
      }
    };
    VU turned[4];
    std::int64_t k = 0;
    for (; k + kTurn<T> <= count; k += kTurn<T>) {
      turn<true>(rows + v * lanes(), at + k, kTurn<T>, turned);
      store(turned);
    }
    if (k < count) {
      turn<false>(rows + v * lanes(), at + k, count - k, turned);
      store(turned);
    }
  }
}

/// MR rows of x against units [begin, end) of a packed panel, one run.
template <int MR, class Product>
HWY_INLINE void panel_run(const std::byte* const* x, std::int64_t begin, std::int64_t end,
                          const std::uint32_t* panel, float* c, std::int64_t c_stride) {
  const DF d;
  const DU du;
  const std::int64_t step = lanes();
  VF sum[MR][kPanelVectors];
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < kPanelVectors; ++v) sum[m][v] = hn::Zero(d);
  }
  for (std::int64_t k = begin; k < end; ++k) {
    VU w[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) {
      w[v] = hn::LoadU(du, panel + (k * kPanelVectors + v) * step);
    }
    for (int m = 0; m < MR; ++m) {
      const VU factor = hn::Set(du, load_unit(x[m], k));
      for (int v = 0; v < kPanelVectors; ++v) sum[m][v] = Product::add(factor, w[v], sum[m][v]);
    }
  }
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < kPanelVectors; ++v) {
      float* to = c + m * c_stride + v * step;
      hn::StoreU(hn::Add(hn::LoadU(d, to), sum[m][v]), d, to);
    }
  }
}

/// The same for `units` units of a slab, run after run.
template <int MR, class Product>
HWY_INLINE void panel_tile(const std::byte* const* x, std::int64_t units,
                           const std::uint32_t* panel, float* c, std::int64_t c_stride) {
  for (std::int64_t unit = 0; unit < units; unit += Product::kRun) {
    const std::int64_t end = unit + Product::kRun < units ? unit + Product::kRun : units;
    panel_run<MR, Product>(x, unit, end, panel, c, c_stride);
  }
}

/// Adds the products of `count` units, turned[0] being unit `unit` of x.
template <int MR, class Product>
HWY_INLINE void add_turned(const std::byte* const* x, const VU* turned, std::int64_t unit,
                           std::int64_t count, VF* sum) {
  for (int u = 0; u < 4; ++u) {
    Product::widen(turned[u], [&](VU w) HWY_ATTR {
      if (--count < 0) return;
      for (int m = 0; m < MR; ++m) {
        sum[m] = Product::add(hn::Set(DU(), load_unit(x[m], unit)), w, sum[m]);
      }
      ++unit;
    });
  }
}

/// MR rows of x against lanes() rows of weights, turned on the way: for few rows, where a panel
/// would be read back hardly more often than it is written.
template <int MR, class Product>
HWY_INLINE void stored_tile(const std::byte* const* x, const typename Product::Weight* const* rows,
                            std::int64_t at, std::int64_t count, float* c, std::int64_t c_stride) {
  using T = typename Product::Weight;
  constexpr std::int64_t kRun = Product::kRun * Product::kPerUnit;
  constexpr std::int64_t kUnits = kTurn<T> / Product::kPerUnit;
  static_assert(kRun % kTurn<T> == 0);
  const DF d;
  for (std::int64_t run = 0; run < count; run += kRun) {
    const std::int64_t end = run + kRun < count ? run + kRun : count;
    VF sum[MR];
    for (int m = 0; m < MR; ++m) sum[m] = hn::Zero(d);
    VU turned[4];
    std::int64_t k = run;
    for (; k + kTurn<T> <= end; k += kTurn<T>) {
      turn<true>(rows, at + k, kTurn<T>, turned);
      add_turned<MR, Product>(x, turned, k / Product::kPerUnit, kUnits, sum);
    }
    if (k < end) {
      turn<false>(rows, at + k, end - k, turned);
      const std::int64_t rest = (end - k + Product::kPerUnit - 1) / Product::kPerUnit;
      add_turned<MR, Product>(x, turned, k / Product::kPerUnit, rest, sum);
    }
    for (int m = 0; m < MR; ++m) {
      hn::StoreU(hn::Add(hn::LoadU(d, c + m * c_stride), sum[m]), d, c + m * c_stride);
    }
  }
}

/// Calls f.template operator()<MR>() with MR = rows, 1 to kPanelRows.
template <class F>
HWY_INLINE void with_rows(std::int64_t rows, const F& f) {
  static_assert(kPanelRows == 6);
  switch (rows) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
    case 5: return f.template operator()<5>();
    default: return f.template operator()<6>();
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_PANEL_INL_H_
