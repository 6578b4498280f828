// Products of some 13 to 48 rows in bf16, with the rows of x side by side in the lanes of vectors:
// x is turned, which is little, and weights are read where they lie, a pair of each at a time. The
// walk of linear_blocks-inl.h turns the weights, a tenth of its time where 32 rows share them.
//
// Each output is the same sum in the same order as there. Outputs come out column by column and are
// turned on their way to memory.
#include "src/cpu/bf16_product-inl.h"
#include "src/cpu/linear_blocks-inl.h"

#if defined(HYBRIDATTN_CPU_LINEAR_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_LINEAR_LANES_INL_H_
#undef HYBRIDATTN_CPU_LINEAR_LANES_INL_H_
#else
#define HYBRIDATTN_CPU_LINEAR_LANES_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Lanes of a vector, and the most vectors of rows.
inline constexpr std::int64_t kLaneRows = kTileSide;
inline constexpr std::int64_t kLaneVectors = 3;
/// Columns of a tile, by the vectors of rows: as many sums as there are registers for, but rows of
/// weights a power of two apart share one or two sets of the first-level cache, which holds eight.
inline constexpr int kLaneTiles[] = {0, 12, 12, 8};
/// Columns that are turned and stored together: whole tiles, whatever the number of vectors.
inline constexpr std::int64_t kLaneColumns = 48;
/// Rows that are stored behind one another stand in the last part of the room for sums.
inline constexpr std::int64_t kLaneOutputs = kLaneVectors * kLaneRows * kColumns;
inline constexpr std::int64_t kLaneRoom = ops::kLinearSums - kLaneOutputs;
static_assert(kLaneRoom >= kLaneColumns * kLaneVectors * kLaneRows && kLaneColumns <= kColumns);

inline std::int64_t lane_vectors(std::int64_t rows) { return (rows + kLaneRows - 1) / kLaneRows; }

/// Whether that is faster: empty lanes take as long as full ones, turning weights as long as four
/// rows more.
inline bool fits_lanes(const ops::LinearParams& p, std::int64_t rows) {
  constexpr std::int64_t kTurning = 4;
  const std::int64_t vectors = lane_vectors(rows);
  // A last element by itself would be multiplied with what follows the row.
  return vectors <= kLaneVectors && vectors * kLaneRows <= rows + kTurning - 1 && p.x.dim(1) > 0 &&
         p.x.dim(1) % 2 == 0;
}

/// Fetches the weights of the next tile while this one is computed.
struct LanePrefetch {
  WeightPrefetch weights;
  HWY_INLINE bool begin() {
    weights.call();
    return false;
  }
  HWY_INLINE void step(std::int64_t) {}
  HWY_INLINE void end() {}
};

template <int NV>
class LaneBlock {
  static constexpr int kTile = kLaneTiles[NV];
  static constexpr std::int64_t kWidth = NV * kLaneRows;
  /// Columns whose sums wait for the next inner elements, and inner elements that x is turned for.
  static constexpr std::int64_t kChunk = kLaneRoom / kWidth / kLaneColumns * kLaneColumns;
  static constexpr std::int64_t kInner =
      2 * 2 * ops::kLinearPanel / kWidth / (2 * Bf16Product::kRun) * (2 * Bf16Product::kRun);
  static_assert(kChunk > 0 && kInner > 0 && kLaneColumns % kTile == 0);

 public:
  LaneBlock(const ops::LinearParams& p, const Block& block, const Scratch& scratch)
      : p_(p), block_(block), inner_(p.x.dim(1)), sums_(scratch.sums), turned_(scratch.panels),
        outputs_(scratch) {
    outputs_.sums += kLaneRoom;
  }

  template <class Finish>
  void run(const Finish& finish) {
    const std::int64_t end = block_.column + block_.columns;
    for (std::int64_t column = block_.column; column < end; column += kChunk) {
      const std::int64_t columns = end - column < kChunk ? end - column : kChunk;
      for (std::int64_t at = 0; at < inner_; at += kInner) {
        const std::int64_t count = inner_ - at < kInner ? inner_ - at : kInner;
        if (inner_ > kInner || column == block_.column) turn_x(at, count);
        multiply({column, columns, at, count}, finish);
      }
    }
  }

 private:
  /// Elements [at, at + count) of all rows: pairs[i][row]. Rows past the last are copies of it.
  void turn_x(std::int64_t at, std::int64_t count) {
    for (std::int64_t v = 0; v < NV; ++v) {
      const BF16* rows[kLaneRows];
      for (std::int64_t r = 0; r < kLaneRows; ++r) {
        const std::int64_t row = std::min(v * kLaneRows + r, block_.rows - 1);
        rows[r] = reinterpret_cast<const BF16*>(row2(p_.x, block_.row + row)) + at;
      }
      std::uint32_t* to = turned_ + v * kLaneRows;
      const std::int64_t whole = count / kTurn<BF16> * kTurn<BF16>;
      turn_rows(rows, whole, to, kWidth);
      if (whole == count) continue;
      VU rest[4];
      turn<false>(rows, whole, count - whole, rest);
      for (std::int64_t u = 0; u < (count - whole) / 2; ++u) {
        hn::StoreU(rest[u], DU(), to + (whole / 2 + u) * kWidth);
      }
    }
  }

  /// All tiles of a piece, and their outputs behind the last inner elements.
  template <class Finish>
  void multiply(const Piece& piece, const Finish& finish) {
    const bool last = piece.at + piece.count == inner_;
    if (piece.column == block_.column && piece.at == 0) tile_prefetch(piece, 0, 1).call();
    for (std::int64_t n = 0; n < piece.columns; n += kTile) {
      const std::int64_t group = n / kLaneColumns * kLaneColumns;
      const std::int64_t columns = std::min(piece.columns - group, kLaneColumns);
      if (last && n == group) {
        fetch_outputs(p_, block_.row, block_.rows, {piece.column + group, columns, 0, 0});
      }
      multiply_tile(piece, n);
      if (last && n + kTile >= group + columns) store(piece.column + group, columns, group, finish);
    }
  }

  WeightPrefetch tile_prefetch(const Piece& piece, std::int64_t n, std::int64_t calls) const {
    // The columns of the next piece follow those of this one, of which they may be the same.
    Piece from = piece;
    from.columns = block_.column + block_.columns - piece.column;
    return prefetch_of(p_, from, n, kTile, calls);
  }

  void multiply_tile(const Piece& piece, std::int64_t n) {
    const std::byte* weights[kTile];
    for (std::int64_t i = 0; i < kTile; ++i) {
      // Columns past the last are copies of it.
      const std::int64_t column = std::min(n + i, piece.columns - 1);
      weights[i] = row2(p_.weight, piece.column + column) + piece.at * 2;
    }
    const std::int64_t units = piece.count / 2;
    LanePrefetch next{
        tile_prefetch(piece, n + kTile, std::max<std::int64_t>(units / kGroupUnits, 1))};
    for (std::int64_t unit = 0; unit < units; unit += Bf16Product::kRun) {
      panel_run<kTile, NV, Bf16Product>(weights, unit, std::min(unit + Bf16Product::kRun, units),
                                        turned_, sums_ + n * kWidth, kWidth, piece.at + unit > 0,
                                        next);
    }
  }

  /// The outputs of columns whose sums begin at column `at` of the chunk.
  template <class Finish>
  void store(std::int64_t column, std::int64_t columns, std::int64_t at, const Finish& finish) {
    const auto* sums = reinterpret_cast<const std::uint32_t*>(sums_ + at * kWidth);
    for (std::int64_t c = 0; c < columns; c += kTileSide) {
      for (std::int64_t v = 0; v < NV; ++v) {
        turn_units(sums + c * kWidth + v * kLaneRows, kWidth, kLaneRows,
                   reinterpret_cast<std::uint32_t*>(outputs_.sums + v * kLaneRows * kColumns + c),
                   kColumns);
      }
    }
    store_sums(p_, block_, 0, block_.rows, {column, columns, 0, 0}, finish, outputs_);
  }

  const ops::LinearParams& p_;
  const Block& block_;
  const std::int64_t inner_;
  float* const sums_;            // [columns of a chunk, kWidth]
  std::uint32_t* const turned_;  // [inner elements / 2, kWidth]
  Scratch outputs_;              // whose sums are [rows, kColumns]
};

template <class Finish>
void run_lanes(const ops::LinearParams& p, const Block& block, const Finish& finish,
               const Scratch& scratch) {
  static_assert(kLaneVectors == 3);
  switch (lane_vectors(block.rows)) {
    case 1: return LaneBlock<1>(p, block, scratch).run(finish);
    case 2: return LaneBlock<2>(p, block, scratch).run(finish);
    default: return LaneBlock<3>(p, block, scratch).run(finish);
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_LINEAR_LANES_INL_H_
