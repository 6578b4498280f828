// What linear on tiles reads and writes: x as right operands, sums on their way to the output.
#include "src/cpu/amx-inl.h"
#include "src/cpu/linear_gate-inl.h"
#include "src/cpu/panel-inl.h"
#include "src/ops/linear_params.h"

#if defined(HYBRIDATTN_CPU_LINEAR_TILE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_LINEAR_TILE_ROWS_INL_H_
#undef HYBRIDATTN_CPU_LINEAR_TILE_ROWS_INL_H_
#else
#define HYBRIDATTN_CPU_LINEAR_TILE_ROWS_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kTileBlock = 2 * kTileSide;  // rows of x, or weights, of one block
static_assert(kTileBlock == ops::kLinearTileBlock && kTileInner == ops::kLinearTileInner);

inline constexpr std::int64_t kSlabSteps = ops::kLinearTileSlab / kTileInner;

/// Bytes of a row of x or of weights.
inline std::int64_t inner_bytes(const ops::LinearParams& p) {
  return p.x.dim(1) * static_cast<std::int64_t>(dtype_size(p.weight.dtype));
}

inline std::int64_t weight_stride(const ops::LinearParams& p) {
  return p.weight.stride(0) * static_cast<std::int64_t>(dtype_size(p.weight.dtype));
}

/// x as right operands: slab after slab of k, in a slab blocks of up to 32 rows one after the
/// other, as they will be read; in a block [step of k][tile][4 bytes of k][row].
struct PackedRows {
  explicit PackedRows(const ops::LinearParams& p)
      : rows(p.x.dim(0)), steps((inner_bytes(p) + kTileLine - 1) / kTileLine),
        width(rows < kTileSide ? rows : kTileSide), units(p.packed_x) {}

  std::int64_t blocks() const { return (rows + kTileBlock - 1) / kTileBlock; }
  std::int64_t tiles_of(std::int64_t block) const {
    return rows - block * kTileBlock > kTileSide ? 2 : 1;
  }
  std::uint32_t* tile(std::int64_t block, std::int64_t step, std::int64_t tile) const {
    const std::int64_t slab = step / kSlabSteps * kSlabSteps;
    const std::int64_t left = steps - slab < kSlabSteps ? steps - slab : kSlabSteps;
    const std::int64_t tiles = (rows + kTileSide - 1) / kTileSide;
    return units + (slab * tiles + 2 * block * left + (step - slab) * tiles_of(block) + tile) *
                       kTileSide * width;
  }

  std::int64_t rows;
  std::int64_t steps;
  std::int64_t width;  // rows of x in a tile
  std::uint32_t* units;
};

/// Packs the rows of one tile.
inline void pack_rows(const ops::LinearParams& p, const PackedRows& x, std::int64_t index) {
  const std::int64_t block = index / 2;
  const std::int64_t bytes = inner_bytes(p);
  const std::int8_t* rows[kTileSide];
  for (std::int64_t r = 0; r < kTileSide; ++r) {
    // Rows past the last are copies of it, whose sums are not stored.
    const std::int64_t row = index * kTileSide + r;
    rows[r] = reinterpret_cast<const std::int8_t*>(row2(p.x, row < x.rows ? row : x.rows - 1));
  }
  constexpr std::int64_t kStep = kTurn<std::int8_t>;
  for (std::int64_t k = 0; k < x.steps * kTileLine; k += kStep) {
    VU turned[4] = {hn::Zero(DU()), hn::Zero(DU()), hn::Zero(DU()), hn::Zero(DU())};
    if (k + kStep <= bytes) {
      turn<true>(rows, k, kStep, turned);
    } else if (k < bytes) {
      turn<false>(rows, k, bytes - k, turned);
    }
    std::uint32_t* to = x.tile(block, k / kTileLine, index % 2) + k % kTileLine / 4 * x.width;
    for (int u = 0; u < 4; ++u) {
      hn::StoreN(turned[u], DU(), to + u * x.width, static_cast<std::size_t>(x.width));
    }
  }
}

/// turned[m], lane i: sums[i][row + m], the sum of 16 weights i.
HWY_INLINE void turn_sums(const float* sums, std::int64_t row, VU* turned) {
  const float* weights[kTileSide];
  for (int r = 0; r < kTileSide; ++r) weights[r] = sums + r * kTileSide;
  turn<true>(weights, row, 4, turned);
}

// ---- What is multiplied: 4 bytes of x by 4 of a weight, added to 4 of a sum.

/// Pairs of bf16 with float32 sums.
struct Bf16Tiles {
  template <int kSum, int kLeft, int kRight>
  static HWY_INLINE void dot() {
    tile_dot<kSum, kLeft, kRight>();
  }
  HWY_INLINE VF value(VU sum, std::int64_t, std::int64_t, std::int64_t) const {
    return hn::BitCast(DF(), sum);
  }
};

/// Bytes with 32-bit integer sums, which come out times the scales of their row and their weight.
struct Int8Tiles {
  const float* row_scales;
  const float* weight_scales;

  template <int kSum, int kLeft, int kRight>
  static HWY_INLINE void dot() {
    tile_dot_bytes<kSum, kLeft, kRight>();
  }
  HWY_INLINE VF value(VU sum, std::int64_t row, std::int64_t column, std::int64_t count) const {
    const DF d;
    const VF scales =
        hn::Mul(hn::Set(d, row_scales[row]), load_part(weight_scales + column, count));
    return hn::Mul(scales, hn::ConvertTo(d, hn::BitCast(hn::RebindToSigned<DF>(), sum)));
  }
};

/// Outputs of type T, from one row and column on.
template <class T>
struct TileOutputs {
  std::int64_t row, column;
  T* out;
  std::int64_t stride;
  bool accumulate;
  const T* gate;  // of the same rows, or nullptr
  std::int64_t gate_stride;
};

/// Four rows of the output from row `row` of the tile on, from two tiles of sums[weight][row].
template <class T, class Product>
HWY_INLINE void store_turned(const Product& product, const float* sums, std::int64_t row,
                             std::int64_t rows, std::int64_t columns,
                             const TileOutputs<T>& outputs) {
  const auto value = [&](VU sum, std::int64_t m, std::int64_t at, std::int64_t count) HWY_ATTR
      __attribute__((always_inline)) {
    return product.value(sum, outputs.row + row + m, outputs.column + at, count);
  };
  VU low[4], high[4];
  turn_sums(sums, row, low);
  if (columns > kTileSide) turn_sums(sums + kTileSide * kTileSide, row, high);
  for (std::int64_t m = 0; m < 4 && row + m < rows; ++m) {
    T* to = outputs.out + (row + m) * outputs.stride;
    const T* gate =
        outputs.gate == nullptr ? nullptr : outputs.gate + (row + m) * outputs.gate_stride;
    const bool plain = gate == nullptr && !outputs.accumulate;
    if (std::is_same_v<T, BF16> && columns == 2 * kTileSide && plain) {
      // A whole cache line at once.
      const hn::Repartition<hwy::bfloat16_t, DF> db;
      const VF left = value(low[m], m, 0, kTileSide);
      const VF right = value(high[m], m, kTileSide, kTileSide);
      hn::StoreU(hn::OrderedDemote2To(db, left, right), db, reinterpret_cast<hwy::bfloat16_t*>(to));
      continue;
    }
    for (std::int64_t at = 0; at < columns; at += kTileSide) {
      const std::int64_t count = columns - at < kTileSide ? columns - at : kTileSide;
      VF sum = value(at == 0 ? low[m] : high[m], m, at, count);
      if (gate != nullptr) sum = silu_times(load_part(gate + at, count), sum);
      if (outputs.accumulate) sum = hn::Add(load_part(to + at, count), sum);
      store_part(sum, to + at, count);
    }
  }
}

/// Sums of 32 weights and a block of rows that wait to be stored. They are turned and stored in
/// pieces between the products of the next block, whose unit would idle otherwise.
template <class Product>
struct PendingSums {
  static constexpr std::int64_t kPieces = 8;  // of four rows

  explicit PendingSums(const Product& what) : product(what) {}

  Product product;
  std::int64_t column, columns;  // of the output: which weights
  std::int64_t row, rows;
  const float* sums = nullptr;   // [tile of rows][tile of weights][weight][row]
  std::int64_t piece = kPieces;  // the next one

  HWY_INLINE void store_piece(const ops::LinearParams& p) {
    if (piece == kPieces) return;
    const std::int64_t tile = piece / 4;
    const std::int64_t first = row + tile * kTileSide;
    const std::int64_t count = rows - tile * kTileSide;
    const auto store = [&]<class T>(const T*) HWY_ATTR {
      T* out = reinterpret_cast<T*>(row2(p.out, first)) + column;
      const T* gate = nullptr;
      if (!p.gate.empty()) gate = reinterpret_cast<const T*>(row2(p.gate, first)) + column;
      store_turned<T>(product, sums + tile * 2 * kTileSide * kTileSide, piece % 4 * 4, count,
                      columns,
                      {first, column, out, p.out.stride(0), p.accumulate, gate,
                       gate == nullptr ? 0 : p.gate.stride(0)});
    };
    switch (p.out.dtype) {
      case DType::kBF16: store(static_cast<const BF16*>(nullptr)); break;
      case DType::kF16: store(static_cast<const F16*>(nullptr)); break;
      default: store(static_cast<const float*>(nullptr));
    }
    ++piece;
    if (piece * 4 >= rows) piece = kPieces;
  }
  void store_rest(const ops::LinearParams& p) {
    while (piece < kPieces) store_piece(p);
  }
};

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_LINEAR_TILE_ROWS_INL_H_
