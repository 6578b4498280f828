// Matrix products with weights as stored, in vectors; those in tiles stand in linear_amx-inl.h. A
// task is a block of rows and 64 columns of the output; it goes through K slab by slab. With few
// rows the weights are turned in registers and used once; with more they are first packed into
// panels that all rows of the block share.
#include <type_traits>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/linear.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/kernels.h"
#include "src/cpu/linear_amx-inl.h"
#include "src/cpu/panel-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kColumns = ops::kLinearColumns;
static_assert(kSlab == ops::kLinearSlab && kPanelRows <= 8);

struct Block {
  std::int64_t row, rows, column, columns;
};

/// The scratch of one worker, cut up.
struct Scratch {
  explicit Scratch(float* start)
      : sums(start), panel(reinterpret_cast<std::uint32_t*>(sums + ops::kLinearSums)),
        tile(reinterpret_cast<float*>(panel) + ops::kLinearPanel), row(tile + ops::kLinearTile) {}

  float* sums;           // [rows, kColumns]
  std::uint32_t* panel;  // [units, kColumns], one panel of the slab after the other
  float* tile;           // [kPanelRows, kSlab] rows of x in the type that is multiplied
  float* row;            // [kColumns] a row of the output that is added to
};

/// Rows of x from `at` on as the product reads them: in place where they are of its type.
template <class Product>
void tile_rows(const ops::LinearParams& p, std::int64_t row, std::int64_t rows, std::int64_t at,
               std::int64_t count, const Scratch& scratch, const std::byte** x) {
  constexpr bool kPairs = Product::kPerUnit == 2;
  const auto size = static_cast<std::int64_t>(dtype_size(p.x.dtype));
  for (std::int64_t m = 0; m < rows; ++m) {
    const std::byte* source = row2(p.x, row + m) + at * size;
    float* copy = scratch.tile + m * kSlab;
    x[m] = reinterpret_cast<const std::byte*>(copy);
    if (kPairs && count % 2 != 0) {
      // The last pair has one element: beside it stands a 0, not what follows the row in memory.
      copy[count / 2] = 0;
      std::memcpy(copy, source, static_cast<std::size_t>(count * size));
    } else if (kPairs || p.x.dtype == DType::kF32) {
      x[m] = source;
    } else {
      load_row(source, p.x.dtype, count, copy);
    }
  }
}

/// Sums of one slab of K, added to scratch.sums.
template <class Product>
void add_slab(const ops::LinearParams& p, const Block& block,
              const typename Product::Weight* const* weights, std::int64_t at, std::int64_t count,
              const Scratch& scratch) {
  const std::int64_t units = (count + Product::kPerUnit - 1) / Product::kPerUnit;
  const std::int64_t width = panel_columns();
  const bool packed = block.rows > kPanelRows;
  for (std::int64_t n = 0; packed && n < block.columns; n += width) {
    pack_panel<Product>(weights + n, at, count, scratch.panel + n * kSlab);
  }
  for (std::int64_t m = 0; m < block.rows; m += kPanelRows) {
    const std::int64_t rows = block.rows - m < kPanelRows ? block.rows - m : kPanelRows;
    const std::byte* x[kPanelRows];
    tile_rows<Product>(p, block.row + m, rows, at, count, scratch, x);
    float* sums = scratch.sums + m * kColumns;
    with_rows(rows, [&]<int MR>() HWY_ATTR {
      if (packed) {
        for (std::int64_t n = 0; n < block.columns; n += width) {
          panel_tile<MR, Product>(x, units, scratch.panel + n * kSlab, sums + n, kColumns);
        }
        return;
      }
      for (std::int64_t n = 0; n < block.columns; n += lanes()) {
        stored_tile<MR, Product>(x, weights + n, at, count, sums + n, kColumns);
      }
    });
  }
}

void store_sums(const ops::LinearParams& p, const Block& block, const Scratch& scratch) {
  for (std::int64_t m = 0; m < block.rows; ++m) {
    float* sums = scratch.sums + m * kColumns;
    std::byte* out = element(p.out, (block.row + m) * p.out.stride(0) + block.column);
    if (p.accumulate) {
      const float* before = row_f32(out, p.out.dtype, block.columns, scratch.row);
      for_vectors(block.columns, [&](std::int64_t i, std::int64_t n) {
        store_part(hn::Add(load_part(before + i, n), load_part(sums + i, n)), sums + i, n);
      });
    }
    store_row(sums, block.columns, out, p.out.dtype);
  }
}

template <class Product>
void run_block(const ops::LinearParams& p, const Block& block, const Scratch& scratch) {
  using T = typename Product::Weight;
  const T* weights[kColumns];
  for (std::int64_t n = 0; n < kColumns; ++n) {
    // Columns past the last are computed as copies of it and not stored.
    const std::int64_t column = block.column + (n < block.columns ? n : block.columns - 1);
    weights[n] = reinterpret_cast<const T*>(row2(p.weight, column));
  }
  std::memset(scratch.sums, 0, static_cast<std::size_t>(block.rows * kColumns) * sizeof(float));
  const std::int64_t inner = p.x.dim(1);
  for (std::int64_t at = 0; at < inner; at += kSlab) {
    add_slab<Product>(p, block, weights, at, inner - at < kSlab ? inner - at : kSlab, scratch);
  }
  store_sums(p, block, scratch);
}

void run_block_of(const ops::LinearParams& p, const Block& block, const Scratch& scratch) {
#if HWY_NATIVE_DOT_BF16
  if (p.x.dtype == DType::kBF16 && p.weight.dtype == DType::kBF16) {
    return run_block<Bf16Product>(p, block, scratch);
  }
#endif
  switch (p.weight.dtype) {
    case DType::kBF16: return run_block<FloatProduct<BF16>>(p, block, scratch);
    case DType::kF16: return run_block<FloatProduct<F16>>(p, block, scratch);
    default: return run_block<FloatProduct<float>>(p, block, scratch);
  }
}

/// Rows of one task: many, so that a packed panel serves often; fewer where tasks would be too few
/// for the threads.
std::int64_t block_rows(std::int64_t rows, std::int64_t column_blocks, int threads) {
  std::int64_t size = ops::kLinearRows;
  while (size > 48 && (rows + size - 1) / size * column_blocks < 4 * threads) size /= 2;
  return size;
}

void linear(const ops::LinearParams& p, core::Launch& launch) {
#if HYBRIDATTN_TARGET_HAS_TILES
  if (p.packed_x != nullptr) return linear_tiles(p, launch);
#endif
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t rows = p.x.dim(0);
  const std::int64_t columns = p.weight.dim(0);
  const std::int64_t column_blocks = (columns + kColumns - 1) / kColumns;
  const std::int64_t size = block_rows(rows, column_blocks, launch.executor.concurrency());
  const std::int64_t row_blocks = (rows + size - 1) / size;
  parallel_for(launch.executor, row_blocks * column_blocks, [&](std::int64_t task, int worker) {
    Block block{task / column_blocks * size, size, task % column_blocks * kColumns, kColumns};
    if (block.row + block.rows > rows) block.rows = rows - block.row;
    if (block.column + block.columns > columns) block.columns = columns - block.column;
    run_block_of(p, block, Scratch(launch.scratch<float>(worker)));
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(linear);

core::CpuVariants<ops::LinearParams> linear_variants() {
  return variants<ops::LinearParams>(HWY_DISPATCH_TABLE(linear));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
