// Products with weights as stored, [n, k] with k dense: a vector holds one k of neighbouring
// columns n, got by turning small blocks of rows in registers.
//
// Every output is a sum over runs of inner elements, each run summed one unit after the other and
// then added to the runs before it. That order knows nothing of the rows and columns beside an
// output, and short runs keep the rounding of float products small.
#include "src/cpu/simd-inl.h"
#include "src/cpu/weight_prefetch.h"

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
/// Whether the next panel is made between the products of this one, and after how many units.
inline constexpr bool kPacksBetween = HWY_TARGET <= HWY_AVX3;
inline constexpr std::int64_t kGroupUnits = 16;
/// The most rows of a tile whose weights are turned on the way.
inline constexpr int kStoredRows = HWY_TARGET <= HWY_AVX3 ? 16 : kPanelRows;

inline std::int64_t panel_columns() { return kPanelVectors * lanes(); }

// ---- What is multiplied. A unit is 32 bits of a row: one float, or a pair of 16-bit values.

/// Float products: a 16-bit weight is widened first.
template <class TW>
struct FloatProduct {
  using Weight = TW;
  using Sum = float;
  static constexpr std::int64_t kPerUnit = 1;  // inner elements of one unit of x and of the panel
  static constexpr std::int64_t kRun = 64;     // units of one run
  static constexpr std::int64_t kSlab = cpu::HWY_NAMESPACE::kSlab;  // elements packed at a time

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
  using Sum = float;
  static constexpr std::int64_t kPerUnit = 2;
  static constexpr std::int64_t kSlab = cpu::HWY_NAMESPACE::kSlab;
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

/// Products of bytes: four at a time are added to a 32-bit integer, exactly. The weights are made
/// unsigned on the way, as the instructions want one side: 128 times the sum of x is too much.
struct Int8Product {
  using Weight = std::int8_t;
  using Sum = std::int32_t;
  static constexpr std::int64_t kPerUnit = 4;
  static constexpr std::int64_t kRun = 256;
  static constexpr std::int64_t kSlab = 2 * cpu::HWY_NAMESPACE::kSlab;
  using DS = hn::RebindToSigned<DF>;

  static HWY_INLINE hn::Vec<DS> add(VU x, VU w, hn::Vec<DS> sum) {
    const hn::Repartition<std::uint8_t, DF> du8;
    const hn::Repartition<std::int8_t, DF> di8;
    return hn::SumOfMulQuadAccumulate(DS(), hn::BitCast(du8, w), hn::BitCast(di8, x), sum);
  }
  template <class F>
  static HWY_INLINE void widen(VU stored, const F& f) {
    f(hn::Xor(stored, hn::Set(DU(), 0x80808080u)));
  }
};

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

/// turned[u], lane r = unit u of row r, from the blocks of every fourth row.
HWY_INLINE void turn_blocks(const VU* blocks, VU* turned) {
  const DU d;
  const hn::RepartitionToWide<DU> dw;
  const auto low01 = hn::BitCast(dw, hn::InterleaveLower(d, blocks[0], blocks[1]));
  const auto high01 = hn::BitCast(dw, hn::InterleaveUpper(d, blocks[0], blocks[1]));
  const auto low23 = hn::BitCast(dw, hn::InterleaveLower(d, blocks[2], blocks[3]));
  const auto high23 = hn::BitCast(dw, hn::InterleaveUpper(d, blocks[2], blocks[3]));
  turned[0] = hn::BitCast(d, hn::InterleaveLower(dw, low01, low23));
  turned[1] = hn::BitCast(d, hn::InterleaveUpper(dw, low01, low23));
  turned[2] = hn::BitCast(d, hn::InterleaveLower(dw, high01, high23));
  turned[3] = hn::BitCast(d, hn::InterleaveUpper(dw, high01, high23));
}

/// turned[u], lane r = unit u after `at` of rows[r], for four units and lanes() rows.
template <bool kFull, class T>
HWY_INLINE void turn(const T* const* rows, std::int64_t at, std::int64_t count, VU* turned) {
  VU blocks[4];
  for (int r = 0; r < 4; ++r) blocks[r] = load_blocks<kFull>(DU(), rows + r, at, count);
  turn_blocks(blocks, turned);
}

/// Elements of a cache line.
template <class T>
inline constexpr std::int64_t kLine = 4 * kTurn<T>;

/// One cache line of each of lanes() rows on its way to be turned: block r of quarter q is from
/// every fourth row, r, r + 4 and so on. In memory, since the sums of a tile need the registers.
///
/// Where a vector is a line, each line is read once: of rows a power of two apart all lines fall
/// into one or two sets of the first-level cache, which holds eight.
template <class T>
class Lines {
 public:
  HWY_INLINE void load(const T* const* rows, std::int64_t at) {
    for (int r = 0; r < 4; ++r) load_part(rows, at, r);
#if HWY_TARGET <= HWY_AVX3
    asm volatile("" : : "r"(blocks_) : "memory");  // or they would be kept, and the sums stored
#endif
  }
  /// The lines of rows r, r + 4 and so on.
  HWY_INLINE void load_part(const T* const* rows, std::int64_t at, std::int64_t r) {
    const DU d;
#if HWY_TARGET <= HWY_AVX3
    const auto line = [&](std::int64_t row) HWY_ATTR __attribute__((always_inline)) {
      return hn::LoadU(d, reinterpret_cast<const std::uint32_t*>(rows[row] + at)).raw;
    };
    const __m512i a = line(r), b = line(r + 4), c = line(r + 8), e = line(r + 12);
    const __m512i low_ab = _mm512_shuffle_i32x4(a, b, 0x44);  // blocks 0 and 1 of both
    const __m512i low_ce = _mm512_shuffle_i32x4(c, e, 0x44);
    store(0, r, VU{_mm512_shuffle_i32x4(low_ab, low_ce, 0x88)});
    store(1, r, VU{_mm512_shuffle_i32x4(low_ab, low_ce, 0xDD)});
    const __m512i high_ab = _mm512_shuffle_i32x4(a, b, 0xEE);
    const __m512i high_ce = _mm512_shuffle_i32x4(c, e, 0xEE);
    store(2, r, VU{_mm512_shuffle_i32x4(high_ab, high_ce, 0x88)});
    store(3, r, VU{_mm512_shuffle_i32x4(high_ab, high_ce, 0xDD)});
#else
    for (int q = 0; q < 4; ++q) {
      store(q, r, load_blocks<true>(d, rows + r, at + q * kTurn<T>, kTurn<T>));
    }
#endif
  }
  HWY_INLINE void turn_quarter(std::int64_t q, VU* turned) const {
    VU blocks[4];
    for (int r = 0; r < 4; ++r) blocks[r] = hn::Load(DU(), blocks_ + (4 * q + r) * kUnits);
    turn_blocks(blocks, turned);
  }

 private:
  static constexpr int kUnits = static_cast<int>(HWY_MAX_LANES_D(DU));
  HWY_INLINE void store(std::int64_t q, std::int64_t r, VU block) {
    hn::Store(block, DU(), blocks_ + (4 * q + r) * kUnits);
  }

  HWY_ALIGN std::uint32_t blocks_[16 * kUnits];
};

// ---- Tiles. Sums are added to c, whose rows lie `c_stride` floats apart.

inline std::uint32_t load_unit(const std::byte* row, std::int64_t unit) {
  std::uint32_t value;
  std::memcpy(&value, row + unit * 4, sizeof value);
  return value;
}

/// Makes panels of `count` <= kSlab elements from `at` on, [units, panel_columns()] each and
/// kSlab * panel_columns() apart, one line of lanes() rows at a time. The panels grow in small
/// steps between the products of the ones before: in a processor's window stand always products
/// enough to keep their unit at work.
template <class Product>
class PanelPacker {
  using T = typename Product::Weight;

 public:
  PanelPacker() = default;
  /// Makes a line after every `interval` groups of steps.
  PanelPacker(const T* const* rows, std::int64_t panels, std::int64_t at, std::int64_t count,
              std::uint32_t* to, const WeightPrefetch& prefetch)
      : rows_(rows), at_(at), count_(count), panels_(to), vectors_(panels * kPanelVectors),
        left_(vectors_ * (count / kLine<T>)), prefetch_(prefetch) {
    if (left_ == 0) return;
    lines_[0].load(rows_, at_);
    next_ = 1;
  }

  void set_groups(std::int64_t groups) {
    interval_ = left_ > 0 ? groups / left_ : groups;
    if (interval_ < 1) interval_ = 1;
    wait_ = interval_;
  }

  /// Whether the four steps of a group are to be taken.
  HWY_INLINE bool begin() {
    if (--wait_ > 0 || left_ == 0) return false;
    wait_ = interval_;
    prefetch_.call();
    return true;
  }
  HWY_INLINE void step(std::int64_t i) {
    VU turned[4];
    lines_[ready_].turn_quarter(i, turned);
    to_ = store(turned, i == 0 ? start(next_ - 1) : to_);
    if (left_ > 1) lines_[1 - ready_].load_part(line_rows(next_), line_at(next_), i);
  }
  HWY_INLINE void end() {
    ready_ = 1 - ready_;
    ++next_;
    --left_;
  }
  /// All that is left.
  void finish() {
    while (left_ > 0) {
      prefetch_.call();
      for (int i = 0; i < 4; ++i) step(i);
      end();
    }
    for (std::int64_t v = 0; v < vectors_ && count_ % kLine<T> != 0; ++v) rest(v);
    vectors_ = 0;
  }

 private:
  // A line by its number: vector after vector, in each along the inner elements.
  std::int64_t line_vector(std::int64_t line) const { return line / (count_ / kLine<T>); }
  std::int64_t line_k(std::int64_t line) const { return line % (count_ / kLine<T>)*kLine<T>; }
  const T* const* line_rows(std::int64_t line) const { return rows_ + line_vector(line) * lanes(); }
  std::int64_t line_at(std::int64_t line) const { return at_ + line_k(line); }
  std::uint32_t* start(std::int64_t line) const { return place(line_vector(line), line_k(line)); }
  std::uint32_t* place(std::int64_t vector, std::int64_t k) const {
    return panels_ + vector / kPanelVectors * (kSlab * panel_columns()) +
           k / Product::kPerUnit * panel_columns() + vector % kPanelVectors * lanes();
  }
  static HWY_INLINE std::uint32_t* store(const VU* turned, std::uint32_t* to) {
    const std::int64_t columns = panel_columns();
    for (int u = 0; u < 4; ++u) {
      Product::widen(turned[u], [&](VU unit) HWY_ATTR {
        hn::StoreU(unit, DU(), to);
        to += columns;
      });
    }
    return to;
  }
  /// What is less than a line, of one vector.
  void rest(std::int64_t vector) const {
    const T* const* rows = rows_ + vector * lanes();
    const std::int64_t whole = count_ / kLine<T> * kLine<T>;
    std::uint32_t* to = place(vector, whole);
    for (std::int64_t k = whole; k < count_; k += kTurn<T>) {
      VU turned[4];
      if (k + kTurn<T> <= count_) {
        turn<true>(rows, at_ + k, kTurn<T>, turned);
      } else {
        turn<false>(rows, at_ + k, count_ - k, turned);
      }
      to = store(turned, to);
    }
  }

  const T* const* rows_ = nullptr;
  std::int64_t at_ = 0, count_ = 0;
  std::uint32_t* panels_ = nullptr;
  std::uint32_t* to_ = nullptr;
  std::int64_t vectors_ = 0;
  std::int64_t left_ = 0;  // whole lines that are not stored
  std::int64_t next_ = 0;  // the line to be loaded
  std::int64_t interval_ = 1, wait_ = 1;
  std::int64_t ready_ = 0;  // which lines_ are loaded and not stored
  WeightPrefetch prefetch_;
  Lines<T> lines_[2];
};

/// MR rows of x against units [begin, end) of a packed panel of NV vectors, one run. `between` has
/// the chance to do something at every line of x: see PanelPacker. `adds`: c has sums before it.
template <int MR, int NV, class Product, class Between>
HWY_INLINE void panel_run(const std::byte* const* x, std::int64_t begin, std::int64_t end,
                          const std::uint32_t* panel, typename Product::Sum* c,
                          std::int64_t c_stride, bool adds, Between& between) {
  const hn::ScalableTag<typename Product::Sum> d;
  const DU du;
  const std::int64_t step = lanes();
  hn::Vec<decltype(d)> sum[MR][NV];
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < NV; ++v) sum[m][v] = hn::Zero(d);
  }
  std::int64_t k = begin;
  const auto add = [&](std::int64_t stop) HWY_ATTR __attribute__((always_inline)) {
    for (; k < stop; ++k) {
      VU w[NV];
      for (int v = 0; v < NV; ++v) w[v] = hn::LoadU(du, panel + (k * NV + v) * step);
      for (int m = 0; m < MR; ++m) {
        const VU factor = hn::Set(du, load_unit(x[m], k));
        for (int v = 0; v < NV; ++v) sum[m][v] = Product::add(factor, w[v], sum[m][v]);
      }
    }
  };
  if constexpr (kPacksBetween) {
    while (k + kGroupUnits <= end) {
      if (!between.begin()) {
        add(k + kGroupUnits);
        continue;
      }
      for (std::int64_t i = 0; i < 4; ++i) {
        add(k + kGroupUnits / 4);
        between.step(i);
      }
      between.end();
    }
  }
  add(end);
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < NV; ++v) {
      auto* to = c + m * c_stride + v * step;
      // Nothing before it is 0, not left out: the sign of a zero is the same in all walks.
      hn::StoreU(hn::Add(adds ? hn::LoadU(d, to) : hn::Zero(d), sum[m][v]), d, to);
    }
  }
}

/// The same for `units` units of a slab, run after run.
template <int MR, class Product>
HWY_INLINE void panel_tile(const std::byte* const* x, std::int64_t units,
                           const std::uint32_t* panel, typename Product::Sum* c,
                           std::int64_t c_stride, bool adds, PanelPacker<Product>& packer) {
  for (std::int64_t unit = 0; unit < units; unit += Product::kRun) {
    const std::int64_t end = unit + Product::kRun < units ? unit + Product::kRun : units;
    panel_run<MR, kPanelVectors, Product>(x, unit, end, panel, c, c_stride, adds || unit > 0,
                                          packer);
  }
}

/// Adds the products of `count` units, turned[0] being unit `unit` of x.
template <int MR, class Product, class VS>
HWY_INLINE void add_turned(const std::byte* const* x, const VU* turned, std::int64_t unit,
                           std::int64_t count, VS* sum) {
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
                            std::int64_t at, std::int64_t count, typename Product::Sum* c,
                            std::int64_t c_stride, WeightPrefetch prefetch) {
  using T = typename Product::Weight;
  constexpr std::int64_t kRun = Product::kRun * Product::kPerUnit;
  constexpr std::int64_t kUnits = kTurn<T> / Product::kPerUnit;
  static_assert(kRun % kLine<T> == 0);
  const hn::ScalableTag<typename Product::Sum> d;
  // The next line is loaded between the products of this one: a processor's window does not reach
  // from one line's loads over its products to those of the next.
  Lines<T> lines[2];
  int ready = 0;
  if (kLine<T> <= count) lines[0].load(rows, at);
  for (std::int64_t run = 0; run < count; run += kRun) {
    const std::int64_t end = run + kRun < count ? run + kRun : count;
    hn::Vec<decltype(d)> sum[MR];
    for (int m = 0; m < MR; ++m) sum[m] = hn::Zero(d);
    VU turned[4];
    std::int64_t k = run;
    for (; k + kLine<T> <= end; k += kLine<T>) {
      prefetch.call();
      const bool more = k + 2 * kLine<T> <= count;
      for (int q = 0; q < 4; ++q) {
        lines[ready].turn_quarter(q, turned);
        if (more) lines[1 - ready].load_part(rows, at + k + kLine<T>, q);
        add_turned<MR, Product>(x, turned, (k + q * kTurn<T>) / Product::kPerUnit, kUnits, sum);
      }
      ready = 1 - ready;
    }
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

/// The same with the least MR of a few sizes that is at least `rows`, 1 to kStoredRows.
template <class F>
HWY_INLINE void with_stored_rows(std::int64_t rows, const F& f) {
  if constexpr (kStoredRows > kPanelRows) {
    static_assert(kStoredRows == 16 || kStoredRows == kPanelRows);
    if (rows > 12) return f.template operator()<16>();
    if (rows > 8) return f.template operator()<12>();
    if (rows > 6) return f.template operator()<8>();
  }
  with_rows(rows, f);
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_PANEL_INL_H_
