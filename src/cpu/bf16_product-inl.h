// Products of bf16 matrices with float32 sums, for operands that lie in a cache: the ones of the
// chunked delta rule and of attention. On AMX tiles, or on bf16 dot products in vectors.
//
// The left operand has its rows as they are, inner elements dense. The right one has pairs of inner
// elements: right[i][c] holds elements 2 i and 2 i + 1 of column c in 4 bytes.
#include "src/cpu/amx-inl.h"
#include "src/cpu/panel-inl.h"

#if defined(HYBRIDATTN_CPU_BF16_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_BF16_PRODUCT_INL_H_
#undef HYBRIDATTN_CPU_BF16_PRODUCT_INL_H_
#else
#define HYBRIDATTN_CPU_BF16_PRODUCT_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

struct LeftOperand {
  const void* rows;
  std::int64_t stride;  // bytes between rows
};
struct RightOperand {
  const std::uint32_t* pairs;
  std::int64_t stride;  // 4-byte units between two pairs of inner elements
};
struct Sums {
  float* rows;
  std::int64_t stride;  // floats between rows
};

/// Products in tiles: sums[rows, columns] = or += left right. `rows` is a multiple of kRows,
/// `columns` of 16, `inner` of 32.
struct TileProducts {
  static constexpr const char* kTarget = kTilesName;
  static constexpr std::int64_t kRows = kTileSide;  // rows of a product are a multiple of it
  /// Query rows of a task of attention: making operands of keys must be little beside products.
  static constexpr std::int64_t kTaskRows = 512;
  using Scope = Tiles;

  template <bool kAdd>
  static void multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner,
                       const LeftOperand& left, const RightOperand& right, const Sums& sums) {
    for (std::int64_t c = 0; c < columns; c += 2 * kTileSide) {
      for (std::int64_t r = 0; r < rows; r += 2 * kTileSide) {
        const Block block{static_cast<const std::byte*>(left.rows) + r * left.stride,
                          left.stride,
                          right.pairs + c,
                          right.stride * 4,
                          sums.rows + r * sums.stride + c,
                          sums.stride * 4,
                          inner / kTileInner};
        const bool tall = rows - r > kTileSide, wide = columns - c > kTileSide;
        if (tall && wide) {
          block.run<kAdd, true, true>();
        } else if (tall) {
          block.run<kAdd, true, false>();
        } else if (wide) {
          block.run<kAdd, false, true>();
        } else {
          block.run<kAdd, false, false>();
        }
      }
    }
  }

 private:
  struct Block {
    const std::byte* left;
    std::int64_t left_stride;
    const std::uint32_t* right;
    std::int64_t right_stride;
    float* sums;
    std::int64_t sums_stride;
    std::int64_t steps;

    /// The tiles of sums, where `f` gets the tile's number as a type.
    template <bool kTall, bool kWide, class F>
    HWY_INLINE void each_sum(const F& f) const {
      f(std::integral_constant<int, 0>(), sums);
      if constexpr (kWide) f(std::integral_constant<int, 1>(), sums + kTileSide);
      float* below = sums + kTileSide * sums_stride / 4;
      if constexpr (kTall) f(std::integral_constant<int, 2>(), below);
      if constexpr (kTall && kWide) f(std::integral_constant<int, 3>(), below + kTileSide);
    }

    template <bool kAdd, bool kTall, bool kWide>
    HWY_INLINE void run() const {
      each_sum<kTall, kWide>([&](auto tile, const float* at) HWY_ATTR {
        if constexpr (kAdd) {
          tile_load<tile.value>(at, sums_stride);
        } else {
          tile_zero<tile.value>();
        }
      });
      for (std::int64_t step = 0; step < steps; ++step) {
        const std::byte* rows = left + step * kTileLine;
        const std::uint32_t* pairs = right + step * kTileSide * (right_stride / 4);
        tile_load<4>(rows, left_stride);
        tile_load<6>(pairs, right_stride);
        tile_dot<0, 4, 6>();
        if constexpr (kTall) {
          tile_load<5>(rows + kTileSide * left_stride, left_stride);
          tile_dot<2, 5, 6>();
        }
        if constexpr (kWide) {
          tile_load<7>(pairs + kTileSide, right_stride);
          tile_dot<1, 4, 7>();
        }
        if constexpr (kTall && kWide) tile_dot<3, 5, 7>();
      }
      each_sum<kTall, kWide>([&](auto tile, float* at)
                                 HWY_ATTR { tile_store<tile.value>(at, sums_stride); });
    }
  };
};

/// The same in vectors, of any number of rows.
struct DotProducts {
  static constexpr const char* kTarget = "AVX3_ZEN4_BF16";
  static constexpr std::int64_t kRows = 1;
  static constexpr std::int64_t kTaskRows = 128;
  struct Scope {
    Scope() {}  // not trivial, so that an unused one is no warning
  };

  template <bool kAdd>
  static void multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner,
                       const LeftOperand& left, const RightOperand& right, const Sums& sums) {
    for (std::int64_t c = 0; c < columns;) {
      const std::int64_t vectors = (columns - c) / kTileSide;
      const Strip strip{inner / 2,    static_cast<const std::byte*>(left.rows),
                        left.stride,  right.pairs + c,
                        right.stride, sums.rows + c,
                        sums.stride};
      if (vectors >= 4) {
        // Tiles of about the same size: one of few rows would wait for its own sums.
        const std::int64_t tiles = (rows + kPanelRows - 1) / kPanelRows;
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          const std::int64_t r = rows * tile / tiles;
          with_rows(rows * (tile + 1) / tiles - r,
                    [&]<int MR>() HWY_ATTR { strip.run<kAdd, MR, 4>(r); });
        }
        c += 4 * kTileSide;
      } else if (vectors >= 2) {
        strip.run_rows<kAdd, 8, 2>(0, rows);
        c += 2 * kTileSide;
      } else {
        strip.run_rows<kAdd, 16, 1>(0, rows);
        c += kTileSide;
      }
    }
  }

 private:
  /// A few vectors of columns.
  struct Strip {
    std::int64_t pairs;
    const std::byte* left;
    std::int64_t left_stride;
    const std::uint32_t* right;
    std::int64_t right_stride;
    float* sums;
    std::int64_t sums_stride;

    /// Rows [first, rows), MR at a time and the rest by halves.
    template <bool kAdd, int MR, int NV>
    HWY_INLINE void run_rows(std::int64_t first, std::int64_t rows) const {
      for (; first + MR <= rows; first += MR) run<kAdd, MR, NV>(first);
      if constexpr (MR > 1) run_rows<kAdd, MR / 2, NV>(first, rows);
    }

    template <bool kAdd, int MR, int NV>
    HWY_INLINE void run(std::int64_t row) const {
      const DF d;
      const DU du;
      const std::byte* from = left + row * left_stride;
      float* to = sums + row * sums_stride;
      VF sum[MR][NV];
      for (int m = 0; m < MR; ++m) {
        for (int v = 0; v < NV; ++v) {
          sum[m][v] = kAdd ? hn::LoadU(d, to + m * sums_stride + v * kTileSide) : hn::Zero(d);
        }
      }
      for (std::int64_t i = 0; i < pairs; ++i) {
        VU columns[NV];
        for (int v = 0; v < NV; ++v) {
          columns[v] = hn::LoadU(du, right + i * right_stride + v * kTileSide);
        }
        for (int m = 0; m < MR; ++m) {
          const VU factor = hn::Set(du, load_unit(from + m * left_stride, i));
          for (int v = 0; v < NV; ++v) sum[m][v] = Bf16Product::add(factor, columns[v], sum[m][v]);
        }
      }
      for (int m = 0; m < MR; ++m) {
        for (int v = 0; v < NV; ++v) {
          hn::StoreU(sum[m][v], d, to + m * sums_stride + v * kTileSide);
        }
      }
    }
  };
};

/// Calls f.template operator()<Products>() with the products of the context's instruction set, and
/// notes them as what ran. A thread that multiplies holds a Products::Scope.
template <class F>
void with_products(core::Launch& launch, const F& f) {
  if (launch.isa == Isa::kAmx) {
    launch.target = TileProducts::kTarget;
    f.template operator()<TileProducts>();
  } else {
    launch.target = DotProducts::kTarget;
    f.template operator()<DotProducts>();
  }
}

// ---- Making operands.

/// The pairs of 16 rows as 16 columns of a right operand: `inner` elements, a multiple of 8.
HWY_INLINE void turn_rows(const BF16* const* rows, std::int64_t inner, std::uint32_t* pairs,
                          std::int64_t stride) {
  for (std::int64_t at = 0; at < inner; at += kTurn<BF16>) {
    VU turned[4];
    turn<true>(rows, at, kTurn<BF16>, turned);
    for (int u = 0; u < 4; ++u) hn::StoreU(turned[u], DU(), pairs + (at / 2 + u) * stride);
  }
}

/// Lane i: the bf16 roundings of first[i] and second[i], a pair of inner elements.
HWY_INLINE VU pair_rounded(VF first, VF second) {
  const hn::Repartition<hwy::bfloat16_t, DF> db;
  const hn::Repartition<std::uint16_t, DF> d16;
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto rounded = hn::BitCast(d16, hn::OrderedDemote2To(db, first, second));
  return hn::BitCast(DU(), hn::TableLookupLanes(rounded, hn::SetTableIndices(d16, kInterleave)));
}

/// Lane i: first[i] and second[i], bf16.
HWY_INLINE VU pair_of(const BF16* first, const BF16* second) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const auto low = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(first));
  const auto high = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(second));
  return hn::Or(hn::PromoteTo(DU(), low), hn::ShiftLeft<16>(hn::PromoteTo(DU(), high)));
}

/// out[r][c] = in[c][r] for 16 columns c, `rows` rows, a multiple of 4, of 4-byte units.
HWY_INLINE void turn_units(const std::uint32_t* in, std::int64_t in_stride, std::int64_t rows,
                           std::uint32_t* out, std::int64_t out_stride) {
  const float* columns[kTileSide];
  for (int c = 0; c < kTileSide; ++c)
    columns[c] = reinterpret_cast<const float*>(in + c * in_stride);
  for (std::int64_t r = 0; r < rows; r += 4) {
    VU turned[4];
    turn<true>(columns, r, 4, turned);
    for (int u = 0; u < 4; ++u) hn::StoreU(turned[u], DU(), out + (r + u) * out_stride);
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_BF16_PRODUCT_INL_H_
