// Products on tiles of AMX, bf16 times bf16 or bytes times bytes. Weights are the left operand, as
// they are stored; x is the right one, packed once a call into units of 4 bytes of k; sums come out
// turned and are turned back.
//
// Every output is one chain over pairs of k, whatever is computed beside it and however K is cut:
// a slab of K goes on from the float32 sums of the slab before. (Sums of bytes are exact.)
#include "src/cpu/linear_tile_rows-inl.h"

#if defined(HYBRIDATTN_CPU_LINEAR_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_LINEAR_AMX_INL_H_
#undef HYBRIDATTN_CPU_LINEAR_AMX_INL_H_
#else
#define HYBRIDATTN_CPU_LINEAR_AMX_INL_H_
#endif

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

HWY_INLINE void copy_line(const std::byte* from, std::byte* to) {
  const hn::ScalableTag<std::uint8_t> d8;
  hn::Store(hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(from)), d8,
            reinterpret_cast<std::uint8_t*>(to));
}

/// One step of 32 whole weights as a pair of tiles.
HWY_INLINE void copy_step(const std::byte* from, std::int64_t stride, std::byte* tiles) {
  for (std::int64_t r = 0; r < kTileBlock; ++r) copy_line(from + r * stride, tiles + r * kTileLine);
}

/// Weights [column, column + 32) x `steps` steps from one on as pairs of tiles, zeros where there
/// are none.
inline void copy_weights(const ops::LinearParams& p, std::int64_t column, std::int64_t first,
                         std::int64_t steps, std::byte* tiles) {
  const std::int64_t left = inner_bytes(p) - first * kTileLine;
  for (std::int64_t r = 0; r < kTileBlock; ++r) {
    std::byte* to = tiles + r * kTileLine;
    const bool there = column + r < p.weight.dim(0);
    const std::byte* from = there ? row2(p.weight, column + r) + first * kTileLine : nullptr;
    for (std::int64_t step = 0; step < steps; ++step, to += 2 * kTileBytes) {
      const std::int64_t bytes = there ? left - step * kTileLine : 0;
      if (bytes >= kTileLine) {
        copy_line(from + step * kTileLine, to);
        continue;
      }
      std::memset(to, 0, kTileLine);
      if (bytes > 0) std::memcpy(to, from + step * kTileLine, static_cast<std::size_t>(bytes));
    }
  }
}

template <int kTile, bool kOnce>
HWY_INLINE void load_rows(const std::uint32_t* x, std::int64_t x_line) {
  if constexpr (kOnce) {
    tile_load_once<kTile>(x, x_line);
  } else {
    tile_load<kTile>(x, x_line);
  }
}

/// sums[weight][row] of 32 weights and the kTiles x 16 rows of a block, added to tiles 0 to 3.
/// kOnce: x passes weights that are to stay in the first-level cache.
template <class Product, int kTiles, bool kOnce>
HWY_INLINE void add_step(const std::byte* weights, std::int64_t stride, std::int64_t second,
                         const std::uint32_t* x, std::int64_t x_line) {
  tile_load<4>(weights, stride);
  load_rows<6, kOnce>(x, x_line);
  Product::template dot<0, 4, 6>();
  tile_load<5>(weights + second, stride);
  Product::template dot<1, 5, 6>();
  if constexpr (kTiles == 2) {
    load_rows<7, kOnce>(x + kTileSide * kTileSide, x_line);
    Product::template dot<2, 4, 7>();
    Product::template dot<3, 5, 7>();
  }
}

/// f(tile, floats of sums before it) for the tiles of sums, whose number comes as a type.
template <int kTiles, class F>
HWY_INLINE void each_sum(const F& f) {
  f(std::integral_constant<int, 0>(), 0);
  f(std::integral_constant<int, 1>(), 256);
  if constexpr (kTiles == 2) {
    f(std::integral_constant<int, 2>(), 512);
    f(std::integral_constant<int, 3>(), 768);
  }
}
template <int kTiles>
HWY_INLINE void zero_sums() {
  each_sum<kTiles>([](auto tile, int) HWY_ATTR { tile_zero<tile.value>(); });
}
template <int kTiles>
HWY_INLINE void load_sums(const float* sums) {
  each_sum<kTiles>([&](auto tile, int at) HWY_ATTR { tile_load<tile.value>(sums + at); });
}
template <int kTiles>
HWY_INLINE void save_sums(float* sums) {
  each_sum<kTiles>([&](auto tile, int at) HWY_ATTR { tile_store<tile.value>(sums + at); });
}

/// Fetches the lines that the sums of a block will be stored to, and those of a gate of its own,
/// some at each of `steps` calls (0: none): stores that miss would soon fill the store buffer, and
/// nothing else moves on.
class OutPrefetch {
 public:
  OutPrefetch(const ops::LinearParams& p, const PackedRows& x, std::int64_t column,
              std::int64_t block, std::int64_t steps) {
    const auto size = static_cast<std::int64_t>(dtype_size(p.out.dtype));
    const std::int64_t row = block * kTileBlock;
    to_ = row2(p.out, row) + column * size;
    stride_ = p.out.stride(0) * size;
    left_ = x.rows - row < kTileBlock ? x.rows - row : kTileBlock;
    second_ = size == 4 && column + kTileSide < p.weight.dim(0) ? kTileLine : 0;
    each_ = steps > 0 ? (left_ + steps - 1) / steps : 0;
    if (p.gate.empty() || p.gate.data == p.out.data) return;
    gate_ = row2(p.gate, row) + column * size;
    gate_stride_ = p.gate.stride(0) * size;
  }
  HWY_INLINE void call() {
    for (std::int64_t i = 0; i < each_ && left_ > 0; ++i, --left_, to_ += stride_) {
      __builtin_prefetch(to_, 1, 3);
      __builtin_prefetch(to_ + second_, 1, 3);
      if (gate_ == nullptr) continue;
      __builtin_prefetch(gate_, 0, 3);
      __builtin_prefetch(gate_ + second_, 0, 3);
      gate_ += gate_stride_;
    }
  }

 private:
  const std::byte* to_;
  std::int64_t stride_, second_, left_, each_;
  const std::byte* gate_ = nullptr;  // where it is not the output itself
  std::int64_t gate_stride_ = 0;
};

/// Hands a block's sums, which lie in tiles 0 to 3, to those that wait; none do now.
template <int kTiles, class Product>
HWY_INLINE void finish_sums(const ops::LinearParams& p, const PackedRows& x, std::int64_t column,
                            std::int64_t block, float* sums, PendingSums<Product>& pending) {
  save_sums<kTiles>(sums);
  const std::int64_t columns = p.weight.dim(0) - column;
  const std::int64_t row = block * kTileBlock;
  pending.column = column;
  pending.columns = columns < kTileBlock ? columns : kTileBlock;
  pending.row = row;
  pending.rows = x.rows - row < kTileBlock ? x.rows - row : kTileBlock;
  pending.sums = sums;
  pending.piece = 0;
}

// ---- Few rows: weights stream past x, which stays near. The first block takes them from memory,
// another from the second-level cache; with more blocks their copy into tiles pays.

inline constexpr std::int64_t kStreamBlocks = 3;

/// The scratch of one worker, cut up.
struct TileScratch {
  explicit TileScratch(std::byte* scratch)
      : weights(scratch), out(reinterpret_cast<float*>(scratch + ops::kLinearTileWeights)),
        sums(out + 2 * ops::kLinearTileSums) {}

  std::byte* weights;  // one slab of 32 weights as tiles
  float* out;          // the sums of two blocks: one that is stored, one that is computed
  float* sums;         // of all blocks of a task, between two slabs
};

/// The sums of one block of x and 32 weights where they lie.
template <int kTiles, class Product>
HWY_INLINE void stream_weights(const ops::LinearParams& p, const PackedRows& x, std::int64_t column,
                               std::int64_t block, const TileScratch& scratch,
                               PendingSums<Product>& pending) {
  const std::int64_t stride = weight_stride(p);
  const std::byte* weights = row2(p.weight, column);
  const bool whole = column + kTileBlock <= p.weight.dim(0);
  const std::int64_t steps = whole ? inner_bytes(p) / kTileLine : 0;
  const std::int64_t x_line = x.width * 4;
  OutPrefetch out(p, x, column, block, x.steps);
  zero_sums<kTiles>();
  // Nothing is fetched ahead by hand: it takes the line buffers that the tiles' own loads need, and
  // the processor follows the rows by itself (17 % faster than with it).
  for (std::int64_t step = 0; step < steps; ++step) {
    out.call();
    pending.store_piece(p);
    add_step<Product, kTiles, false>(weights + step * kTileLine, stride, kTileSide * stride,
                                     x.tile(block, step, 0), x_line);
  }
  // What no whole tile covers.
  for (std::int64_t step = steps; step < x.steps; ++step) {
    copy_weights(p, column, step, 1, scratch.weights);
    add_step<Product, kTiles, false>(scratch.weights, kTileLine, kTileBytes, x.tile(block, step, 0),
                                     x_line);
  }
  pending.store_rest(p);
  finish_sums<kTiles>(p, x, column, block, scratch.out + block % 2 * ops::kLinearTileSums, pending);
}

// ---- Many rows: a slab of 32 weights stays in the first-level cache while blocks of x pass.

struct TileTask {
  std::int64_t column, columns;
  std::int64_t block, blocks;
};

/// Fetches a slab of 32 weights over `calls` calls.
inline WeightPrefetch slab_prefetch(const ops::LinearParams& p, std::int64_t column,
                                    std::int64_t step, std::int64_t calls) {
  constexpr std::int64_t kBytes = kSlabSteps * kTileLine;
  if (column + kTileBlock > p.weight.dim(0)) return {};
  const std::int64_t lines = kTileBlock * kBytes / kTileLine;
  return WeightPrefetch(row2(p.weight, column) + step * kTileLine, weight_stride(p), kTileBlock,
                        kBytes, (lines + calls - 1) / calls);
}

struct TileSlab {
  std::int64_t step, steps;
  bool first, last;
};

/// `from`: weights that are not in their tiles yet, or nullptr: they are copied between the
/// products of the first block.
template <int kTiles, class Product>
HWY_INLINE void slab_of_block(const ops::LinearParams& p, const PackedRows& x, std::int64_t column,
                              std::int64_t block, const TileSlab& slab, const std::byte* from,
                              float* sums, const TileScratch& scratch, WeightPrefetch& prefetch,
                              PendingSums<Product>& pending) {
  const std::int64_t stride = weight_stride(p);
  OutPrefetch out(p, x, column, block, slab.last ? slab.steps : 0);
  if (slab.first) {
    zero_sums<kTiles>();
  } else {
    load_sums<kTiles>(sums);
  }
  const std::uint32_t* units = x.tile(block, slab.step, 0);
  for (std::int64_t step = 0; step < slab.steps; ++step) {
    std::byte* weights = scratch.weights + step * 2 * kTileBytes;
    prefetch.call();
    out.call();
    pending.store_piece(p);
    if (from != nullptr) copy_step(from + step * kTileLine, stride, weights);
    add_step<Product, kTiles, true>(weights, kTileLine, kTileBytes, units, kTileLine);
    units += kTiles * kTileSide * kTileSide;
  }
  if (slab.last) {
    pending.store_rest(p);
    finish_sums<kTiles>(p, x, column, block, scratch.out + block % 2 * ops::kLinearTileSums,
                        pending);
  } else {
    save_sums<kTiles>(sums);
  }
}

template <class Product>
void run_tile_task(const Product& product, const ops::LinearParams& p, const PackedRows& x,
                   const TileTask& task, const TileScratch& scratch) {
  PendingSums<Product> pending(product);
  for (std::int64_t step = 0; step < x.steps; step += kSlabSteps) {
    const std::int64_t steps = x.steps - step < kSlabSteps ? x.steps - step : kSlabSteps;
    const TileSlab slab{step, steps, step == 0, step + steps == x.steps};
    float* sums = scratch.sums;
    for (std::int64_t n = 0; n < task.columns; n += kTileBlock) {
      const std::int64_t column = task.column + n;
      const bool whole =
          column + kTileBlock <= p.weight.dim(0) && (step + steps) * kTileLine <= inner_bytes(p);
      const std::byte* from = whole ? row2(p.weight, column) + step * kTileLine : nullptr;
      if (!whole) copy_weights(p, column, step, steps, scratch.weights);
      const bool next_slab = n + kTileBlock >= task.columns && !slab.last;
      WeightPrefetch prefetch =
          slab_prefetch(p, next_slab ? task.column : column + kTileBlock,
                        step + (next_slab ? kSlabSteps : 0), task.blocks * steps);
      for (std::int64_t b = task.block; b < task.block + task.blocks; ++b, sums += 1024) {
        if (x.tiles_of(b) == 2) {
          slab_of_block<2>(p, x, column, b, slab, from, sums, scratch, prefetch, pending);
        } else {
          slab_of_block<1>(p, x, column, b, slab, from, sums, scratch, prefetch, pending);
        }
        from = nullptr;
      }
    }
  }
  pending.store_rest(p);
}

template <class Product>
void linear_few_rows(const Product& product, const ops::LinearParams& p, const PackedRows& x,
                     core::Launch& launch) {
  constexpr std::int64_t kColumns = 128;  // of a task
  const std::int64_t columns = p.weight.dim(0);
  const std::int64_t blocks = x.blocks();
  parallel_for(launch.executor, (columns + kColumns - 1) / kColumns, [&](auto task, int worker) {
    const Tiles tiles(x.width);
    const TileScratch scratch(launch.scratch<std::byte>(worker));
    PendingSums<Product> pending(product);
    const std::int64_t end = (task + 1) * kColumns < columns ? (task + 1) * kColumns : columns;
    for (std::int64_t column = task * kColumns; column < end; column += kTileBlock) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        if (x.tiles_of(b) == 2) {
          stream_weights<2>(p, x, column, b, scratch, pending);
        } else {
          stream_weights<1>(p, x, column, b, scratch, pending);
        }
      }
    }
    pending.store_rest(p);
  });
}

template <class Product>
void linear_many_rows(const Product& product, const ops::LinearParams& p, const PackedRows& x,
                      core::Launch& launch) {
  const std::int64_t columns = p.weight.dim(0);
  std::int64_t width = ops::kLinearTileColumns;
  const std::int64_t row_tasks = (x.blocks() + ops::kLinearTileBlocks - 1) / ops::kLinearTileBlocks;
  while (width > kTileBlock &&
         (columns + width - 1) / width * row_tasks < 4 * launch.executor.concurrency()) {
    width /= 2;
  }
  const std::int64_t column_tasks = (columns + width - 1) / width;
  parallel_for(launch.executor, column_tasks * row_tasks, [&](auto index, int worker) {
    const Tiles tiles;
    TileTask task{index % column_tasks * width, width,
                  index / column_tasks * ops::kLinearTileBlocks, ops::kLinearTileBlocks};
    if (task.column + width > columns) task.columns = columns - task.column;
    if (task.block + task.blocks > x.blocks()) task.blocks = x.blocks() - task.block;
    run_tile_task(product, p, x, task, TileScratch(launch.scratch<std::byte>(worker)));
  });
}

template <class Product>
void linear_tiles(const Product& product, const ops::LinearParams& p, core::Launch& launch) {
  launch.target = kTilesName;
  const PackedRows x(p);
  parallel_for(launch.executor, (x.rows + kTileSide - 1) / kTileSide,
               [&](auto tile, int) { pack_rows(p, x, tile); });
  if (x.blocks() <= kStreamBlocks) {
    linear_few_rows(product, p, x, launch);
  } else {
    linear_many_rows(product, p, x, launch);
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_LINEAR_AMX_INL_H_
