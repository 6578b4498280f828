// How linear in vectors goes through its operands. A task is a block of rows and some columns of
// the output; it takes 64 columns at a time and goes through K slab by slab. With few rows the
// weights are turned in registers and used once; with more they are first packed into panels that
// all rows of the block share.
#include <algorithm>
#include <numeric>
#include <type_traits>

#include "src/cpu/linear_gate-inl.h"
#include "src/cpu/panel-inl.h"
#include "src/ops/linear_params.h"

#if defined(HYBRIDATTN_CPU_LINEAR_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_LINEAR_BLOCKS_INL_H_
#undef HYBRIDATTN_CPU_LINEAR_BLOCKS_INL_H_
#else
#define HYBRIDATTN_CPU_LINEAR_BLOCKS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kColumns = ops::kLinearColumns;
static_assert(kSlab == ops::kLinearSlab && kStoredRows <= ops::kLinearTileRows);

/// The most rows of x that are read where they lie: more of them meet in the same sets of the
/// first-level cache where K is a power of two.
inline constexpr std::int64_t kInPlaceRows = 2;

/// Outputs, up to kLinearRows rows.
struct Block {
  std::int64_t row, rows, column, columns;
};

/// Inner elements [at, at + count) of up to kColumns columns: what is multiplied at a time.
struct Piece {
  std::int64_t column, columns, at, count;
};

/// The scratch of one worker, cut up.
struct Scratch {
  explicit Scratch(float* start)
      : sums(start), panels(reinterpret_cast<std::uint32_t*>(sums + ops::kLinearSums)),
        tile(reinterpret_cast<float*>(panels) + 2 * ops::kLinearPanel),
        row(tile + ops::kLinearTile) {}

  float* sums;            // [rows, kColumns]
  std::uint32_t* panels;  // two of [kColumns / panel_columns(), units, panel_columns()]
  float* tile;            // rows of x in the type that is multiplied, kLinearTileStride apart
  float* row;             // [kColumns] a row of the gate, or of the output that is added to
};

/// The pieces of a block: slab after slab of one group of columns, then the next.
class Pieces {
 public:
  Pieces(const ops::LinearParams& p, const Block& block, std::int64_t slab)
      : inner_(p.x.dim(1)), slab_(slab), block_(block) {}

  Piece first() const { return piece(block_.column, 0); }
  /// The one after it; without columns after the last.
  Piece after(const Piece& before) const {
    const std::int64_t at = before.at + before.count;
    return at < inner_ ? piece(before.column, at) : piece(before.column + kColumns, 0);
  }
  bool last_of_columns(const Piece& p) const { return p.at + p.count == inner_; }

 private:
  Piece piece(std::int64_t column, std::int64_t at) const {
    const std::int64_t columns = block_.column + block_.columns - column;
    return {column, columns < kColumns ? columns : kColumns, at,
            inner_ - at < slab_ ? inner_ - at : slab_};
  }

  std::int64_t inner_;
  std::int64_t slab_;
  Block block_;
};

/// Rows of weights of a piece.
template <class T>
struct Weights {
  Weights(const ops::LinearParams& p, const Piece& piece) {
    for (std::int64_t n = 0; n < kColumns; ++n) {
      // Columns past the last are computed as copies of it and not stored.
      const std::int64_t column = piece.column + (n < piece.columns ? n : piece.columns - 1);
      rows[n] = reinterpret_cast<const T*>(row2(p.weight, column));
    }
  }
  const T* rows[kColumns];
};

/// The weights of `piece` from column `n` on, for `calls` calls.
inline WeightPrefetch prefetch_of(const ops::LinearParams& p, const Piece& piece, std::int64_t n,
                                  std::int64_t columns, std::int64_t calls) {
  if (n >= piece.columns) return {};
  const auto size = static_cast<std::int64_t>(dtype_size(p.weight.dtype));
  const std::int64_t rows = piece.columns - n < columns ? piece.columns - n : columns;
  const std::int64_t lines = rows * piece.count * size / WeightPrefetch::kLineBytes;
  return WeightPrefetch(row2(p.weight, piece.column + n) + piece.at * size,
                        p.weight.stride(0) * size, rows, piece.count * size,
                        (lines + calls - 1) / calls);
}

/// Rows of x of a piece as the product reads them: in place where they are of its type, are few or
/// are used once. `x` has `capacity` rows, of which those past the last are copies of it.
template <class Product>
void tile_rows(const ops::LinearParams& p, std::int64_t row, std::int64_t rows, const Piece& piece,
               const Scratch& scratch, const std::byte** x, std::int64_t capacity, bool copies) {
  constexpr bool kPairs = Product::kPerUnit == 2;
  const auto size = static_cast<std::int64_t>(dtype_size(p.x.dtype));
  for (std::int64_t m = 0; m < rows; ++m) {
    const std::byte* source = row2(p.x, row + m) + piece.at * size;
    float* copy = scratch.tile + m * ops::kLinearTileStride;
    x[m] = reinterpret_cast<const std::byte*>(copy);
    if constexpr (Product::kPerUnit == 4) {
      x[m] = source;  // made for it, with zeros behind
    } else if (kPairs ? copies || piece.count % 2 != 0 : copies && p.x.dtype == DType::kF32) {
      // The last pair may have one element: beside it stands a 0, not what follows the row in
      // memory.
      copy[piece.count / Product::kPerUnit] = 0;
      std::memcpy(copy, source, static_cast<std::size_t>(piece.count * size));
    } else if (kPairs || p.x.dtype == DType::kF32) {
      x[m] = source;
    } else {
      load_row(source, p.x.dtype, piece.count, copy);
    }
  }
  for (std::int64_t m = rows; m < capacity; ++m) x[m] = x[rows - 1];
}

/// The products of a piece with few rows, or few columns, added to scratch.sums.
template <class Product>
void add_stored(const ops::LinearParams& p, const Block& block, const Piece& piece,
                const Piece& next, const Scratch& scratch) {
  const Weights<typename Product::Weight> weights(p, piece);
  constexpr std::int64_t kLineElements = kLine<typename Product::Weight>;
  const std::int64_t calls =
      std::max<std::int64_t>((piece.count + kLineElements - 1) / kLineElements, 1);
  for (std::int64_t m = 0; m < block.rows; m += kStoredRows) {
    const std::int64_t rows = block.rows - m < kStoredRows ? block.rows - m : kStoredRows;
    const std::byte* x[kStoredRows];
    tile_rows<Product>(p, block.row + m, rows, piece, scratch, x, kStoredRows, rows > kInPlaceRows);
    auto* sums = reinterpret_cast<typename Product::Sum*>(scratch.sums + m * kColumns);
    with_stored_rows(rows, [&]<int MR>() HWY_ATTR {
      for (std::int64_t n = 0; n < piece.columns; n += lanes()) {
        const bool more = n + lanes() < piece.columns;
        stored_tile<MR, Product>(x, weights.rows + n, piece.at, piece.count, sums + n, kColumns,
                                 more ? prefetch_of(p, piece, n + lanes(), lanes(), calls)
                                      : prefetch_of(p, next, 0, lanes(), calls));
      }
    });
  }
}

/// Fetches what store_sums will write, and what it adds or multiplies: stores commit in order, so
/// each line that is not there yet holds up those behind it.
inline void fetch_outputs(const ops::LinearParams& p, std::int64_t row, std::int64_t rows,
                          const Piece& piece) {
  const auto bytes = piece.columns * static_cast<std::int64_t>(dtype_size(p.out.dtype));
  for (std::int64_t m = row; m < row + rows; ++m) {
    const std::byte* out = element(p.out, m * p.out.stride(0) + piece.column);
    for (std::int64_t at = 0; at < bytes; at += WeightPrefetch::kLineBytes) {
      prefetch_to_write(out + at);
    }
    if (p.gate.empty() || p.gate.data == p.out.data) continue;
    const std::byte* gate = element(p.gate, m * p.gate.stride(0) + piece.column);
    for (std::int64_t at = 0; at < bytes; at += WeightPrefetch::kLineBytes) {
      __builtin_prefetch(gate + at, 0, 3);
    }
  }
}

/// Sums of a row to its outputs, of type T as the gate.
template <class T>
void store_outputs(const ops::LinearParams& p, std::int64_t row, std::int64_t column,
                   std::int64_t columns, const float* sums) {
  T* out = reinterpret_cast<T*>(element(p.out, row * p.out.stride(0) + column));
  const T* gate = nullptr;
  if (!p.gate.empty()) {
    gate = reinterpret_cast<const T*>(element(p.gate, row * p.gate.stride(0) + column));
  }
  for_vectors(columns, [&](std::int64_t i, std::int64_t n) HWY_ATTR {
    if (n == lanes()) {
      VF sum = load_full(sums + i);
      if (gate != nullptr) sum = silu_times(load_full(gate + i), sum);
      if (p.accumulate) sum = hn::Add(load_full(out + i), sum);
      store_full(sum, out + i);
      return;
    }
    VF sum = load_part(sums + i, n);
    if (gate != nullptr) sum = silu_times(load_part(gate + i, n), sum);
    if (p.accumulate) sum = hn::Add(load_part(out + i, n), sum);
    store_part(sum, out + i, n);
  });
}

/// Sums of rows [first, first + rows) of the block and the columns of a piece to the output.
template <class Finish>
void store_sums(const ops::LinearParams& p, const Block& block, std::int64_t first,
                std::int64_t rows, const Piece& piece, const Finish& finish,
                const Scratch& scratch) {
  for (std::int64_t m = first; m < first + rows; ++m) {
    const std::int64_t row = block.row + m;
    float* sums = scratch.sums + m * kColumns;
    finish(row, piece.column, piece.columns, sums);
    switch (p.out.dtype) {
      case DType::kBF16: store_outputs<BF16>(p, row, piece.column, piece.columns, sums); break;
      case DType::kF16: store_outputs<F16>(p, row, piece.column, piece.columns, sums); break;
      default: store_outputs<float>(p, row, piece.column, piece.columns, sums);
    }
  }
}

/// The same with panels of weights that are ready, to the output: a tile's outputs leave while the
/// next tile is computed.
template <class Product, class Finish>
void add_panels(const ops::LinearParams& p, const Block& block, const Piece& piece,
                const std::uint32_t* panels, PanelPacker<Product>& packer, const Finish& finish,
                const Scratch& scratch) {
  using Sum = typename Product::Sum;
  const std::int64_t units = (piece.count + Product::kPerUnit - 1) / Product::kPerUnit;
  const std::int64_t width = panel_columns();
  const std::int64_t tiles = (block.rows + kPanelRows - 1) / kPanelRows;
  if (kPacksBetween) {
    packer.set_groups(tiles * ((piece.columns + width - 1) / width) * (units / kGroupUnits));
  } else {
    packer.finish();
  }
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    // Tiles of about the same size: one of a row or two would take as long as one of four.
    const std::int64_t m = block.rows * tile / tiles;
    const std::int64_t rows = block.rows * (tile + 1) / tiles - m;
    const std::byte* x[kPanelRows];
    tile_rows<Product>(p, block.row + m, rows, piece, scratch, x, rows, false);
    const bool last = piece.at + piece.count == p.x.dim(1);
    if (last && tile == 0) fetch_outputs(p, block.row, rows, piece);
    if (last && tile + 1 < tiles) {
      const std::int64_t end = block.rows * (tile + 2) / tiles;
      fetch_outputs(p, block.row + m + rows, end - m - rows, piece);  // of the next tile
    }
    auto* sums = reinterpret_cast<Sum*>(scratch.sums + m * kColumns);
    with_rows(rows, [&]<int MR>() HWY_ATTR {
      for (std::int64_t n = 0; n < piece.columns; n += width) {
        panel_tile<MR, Product>(x, units, panels + n * kSlab, sums + n, kColumns, piece.at > 0,
                                packer);
      }
    });
    if (last) {
      fetch_outputs(p, block.row + m, rows, piece);  // again, from where panels have driven them
      store_sums(p, block, m, rows, piece, finish, scratch);
    }
  }
  packer.finish();
}

/// Inner elements that are gone through at a time with few rows: all of them, so that the weights
/// come in the order in which they lie in memory, or as many as copies of x have room for.
template <class Product>
std::int64_t stored_slab(const ops::LinearParams& p, const Block& block) {
  const std::int64_t inner = p.x.dim(1);
  if constexpr (Product::kPerUnit == 4) return inner;
  constexpr bool kPairs = Product::kPerUnit == 2;
  const bool in_place = kPairs ? inner % 2 == 0 : p.x.dtype == DType::kF32;
  return in_place && block.rows <= kInPlaceRows ? inner : kSlab * Product::kPerUnit;
}

template <class Product, class Finish>
void run_stored(const ops::LinearParams& p, const Block& block, const Finish& finish,
                const Scratch& scratch) {
  const Pieces pieces(p, block, stored_slab<Product>(p, block));
  for (Piece piece = pieces.first(); piece.columns > 0;) {
    const Piece next = pieces.after(piece);
    // A tile may have more rows than there are; the room for sums ends with a whole tile.
    const std::int64_t rows = (block.rows + kStoredRows - 1) / kStoredRows * kStoredRows;
    if (piece.at == 0) {
      std::memset(scratch.sums, 0, static_cast<std::size_t>(rows * kColumns) * sizeof(float));
    }
    add_stored<Product>(p, block, piece, next, scratch);
    if (pieces.last_of_columns(piece)) {
      store_sums(p, block, 0, block.rows, piece, finish, scratch);
    }
    piece = next;
  }
}

/// Packs the weights of a piece, and fetches those of the piece after it.
template <class Product>
PanelPacker<Product> packer_of(const ops::LinearParams& p,
                               const Weights<typename Product::Weight>& weights, const Piece& piece,
                               const Piece& after, std::uint32_t* to) {
  if (piece.columns <= 0) return {};
  constexpr std::int64_t kLineElements = kLine<typename Product::Weight>;
  const std::int64_t width = panel_columns();
  const std::int64_t panels = (piece.columns + width - 1) / width;
  const std::int64_t calls = panels * kPanelVectors * (piece.count / kLineElements);
  return PanelPacker<Product>(weights.rows, panels, piece.at, piece.count, to,
                              prefetch_of(p, after, 0, kColumns, calls > 0 ? calls : 1));
}

template <class Product, class Finish>
void run_panels(const ops::LinearParams& p, const Block& block, const Finish& finish,
                const Scratch& scratch) {
  using W = Weights<typename Product::Weight>;
  const Pieces pieces(p, block, Product::kSlab);
  std::uint32_t* panels = scratch.panels;
  std::uint32_t* others = panels + ops::kLinearPanel;
  Piece piece = pieces.first(), next = pieces.after(piece);
  const W first(p, piece);
  prefetch_of(p, piece, 0, kColumns, 1).call();
  packer_of<Product>(p, first, piece, next, panels).finish();
  while (piece.columns > 0) {
    const Piece after = next.columns > 0 ? pieces.after(next) : next;
    const W weights(p, next.columns > 0 ? next : piece);
    PanelPacker<Product> packer = packer_of<Product>(p, weights, next, after, others);
    add_panels<Product>(p, block, piece, panels, packer, finish, scratch);
    piece = next;
    next = after;
    std::swap(panels, others);
  }
}

/// The outputs of a block. `finish(row, column, count, sums)` makes floats of a row of its sums.
template <class Product, class Finish>
void run_block(const ops::LinearParams& p, const Block& block, const Finish& finish,
               const Scratch& scratch) {
  // Without inner elements there is no run that would set the sums of a panel.
  if (block.rows <= kStoredRows || block.columns <= lanes() || p.x.dim(1) == 0) {
    run_stored<Product>(p, block, finish, scratch);
  } else {
    run_panels<Product>(p, block, finish, scratch);
  }
}

/// How a product is cut into tasks.
struct Cut {
  /// Rows of one task: many, so that a packed panel serves often; fewer where tasks would be too
  /// few for the threads. Columns: several groups, so that all but the first find their weights
  /// packed or fetched, and about as many in each task, of which each thread gets the same number.
  Cut(std::int64_t m, std::int64_t n, int threads)
      : rows(m), columns(n), groups((n + kColumns - 1) / kColumns) {
    std::int64_t blocks = (m + ops::kLinearRows - 1) / ops::kLinearRows;
    while (blocks * groups < 2 * threads && m / blocks > 96) blocks *= 2;
    task_rows = ((m + blocks - 1) / blocks + kPanelRows - 1) / kPanelRows * kPanelRows;
    row_tasks = (m + task_rows - 1) / task_rows;
    const std::int64_t tasks = ((m > 64 ? 8 : 2) * threads + row_tasks - 1) / row_tasks;
    const std::int64_t wide = std::clamp(groups / tasks, std::int64_t{1}, std::int64_t{16});
    const std::int64_t share = threads / std::gcd(std::int64_t{threads}, row_tasks);
    column_tasks = ((groups + wide - 1) / wide + share - 1) / share * share;
    if (column_tasks > groups) column_tasks = groups;
  }
  Block block(std::int64_t task) const {
    const std::int64_t at = task % column_tasks;
    const std::int64_t first = groups * at / column_tasks;
    Block out{task / column_tasks * task_rows, task_rows, first * kColumns,
              (groups * (at + 1) / column_tasks - first) * kColumns};
    if (out.row + out.rows > rows) out.rows = rows - out.row;
    if (out.column + out.columns > columns) out.columns = columns - out.column;
    return out;
  }

  std::int64_t rows, columns;
  std::int64_t groups;  // of kColumns columns
  std::int64_t task_rows, row_tasks, column_tasks;
};

/// All outputs: run_block(block, scratch) for each.
template <class RunBlock>
void for_blocks(const ops::LinearParams& p, core::Launch& launch, const RunBlock& run) {
  if (p.out.num_elements() == 0) return;
  const Cut cut(p.out.dim(0), p.out.dim(1), launch.executor.concurrency());
  parallel_for(launch.executor, cut.row_tasks * cut.column_tasks, [&](auto task, int worker) {
    run(cut.block(task), Scratch(launch.scratch<float>(worker)));
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_LINEAR_BLOCKS_INL_H_
