// Matrix products with weights as stored: both operands are dense along K, so each output is a dot
// product; tiles of 4 x 4 outputs reuse each vector they load four times.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/linear.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/gemm-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Columns of one task: long enough to stream weights, short enough that few-row calls still spread
/// over the threads.
inline constexpr std::int64_t kBlockColumns = 64;

void emit_output(const ops::LinearParams& p, std::int64_t m, std::int64_t n, float value) {
  std::byte* out = element(p.out, m * p.out.stride(0) + n);
  switch (p.out.dtype) {
    case DType::kBF16: {
      auto* y = reinterpret_cast<BF16*>(out);
      *y = to_bf16(p.accumulate ? value + to_float(*y) : value);
      return;
    }
    case DType::kF16: {
      auto* y = reinterpret_cast<F16*>(out);
      *y = to_f16(p.accumulate ? value + to_float(*y) : value);
      return;
    }
    default: {
      auto* y = reinterpret_cast<float*>(out);
      *y = p.accumulate ? *y + value : value;
    }
  }
}

struct Block {
  std::int64_t row, rows, column, columns;
};

/// Float products: rows of x as floats (converted once a block), weights of any type.
template <class TW>
void float_block(const ops::LinearParams& p, const Block& block, const float* x,
                 std::int64_t x_stride) {
  const std::int64_t inner = p.x.dim(1);
  for_dot_tiles(block.rows, block.columns, [&]<int MR, int NR>(std::int64_t m0, std::int64_t n0) {
    const float* a[MR];
    const TW* b[NR];
    for (int m = 0; m < MR; ++m) a[m] = x + (m0 + m) * x_stride;
    for (int n = 0; n < NR; ++n) {
      b[n] = reinterpret_cast<const TW*>(row2(p.weight, block.column + n0 + n));
    }
    dot_tile<MR, NR>(inner, a, b, [&](int m, int n, float value) {
      emit_output(p, block.row + m0 + m, block.column + n0 + n, value);
    });
  });
}

void run_float_block(const ops::LinearParams& p, const Block& block, float* scratch) {
  const std::int64_t inner = p.x.dim(1);
  const float* x = scratch;
  std::int64_t stride = inner;
  if (p.x.dtype == DType::kF32) {
    x = reinterpret_cast<const float*>(row2(p.x, block.row));
    stride = p.x.stride(0);
  } else {
    for (std::int64_t m = 0; m < block.rows; ++m) {
      load_row(row2(p.x, block.row + m), p.x.dtype, inner, scratch + m * inner);
    }
  }
  switch (p.weight.dtype) {
    case DType::kBF16: return float_block<BF16>(p, block, x, stride);
    case DType::kF16: return float_block<F16>(p, block, x, stride);
    default: return float_block<float>(p, block, x, stride);
  }
}

#if HWY_NATIVE_DOT_BF16
/// bf16 dot products: pairs of adjacent elements are multiplied and added to a float lane.
template <int MR, int NR, class Emit>
HWY_INLINE void bf16_tile(std::int64_t inner, const BF16* const* a, const BF16* const* b,
                          const Emit& emit) {
  const DF d;
  const hn::Repartition<hwy::bfloat16_t, DF> db;
  using VB = hn::Vec<decltype(db)>;
  const auto step = static_cast<std::int64_t>(hn::Lanes(db));
  VF sum[MR][NR];
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) sum[m][n] = hn::Zero(d);
  }
  VF unused = hn::Zero(d);
  const auto add = [&](const auto& load) HWY_ATTR {
    VB column[NR];
    for (int n = 0; n < NR; ++n) column[n] = load(b[n]);
    for (int m = 0; m < MR; ++m) {
      const VB row = load(a[m]);
      for (int n = 0; n < NR; ++n) {
        sum[m][n] = hn::ReorderWidenMulAccumulate(d, row, column[n], sum[m][n], unused);
      }
    }
  };
  std::int64_t i = 0;
  for (; i + step <= inner; i += step) {
    add([&](const BF16* row)
            HWY_ATTR { return hn::LoadU(db, reinterpret_cast<const hwy::bfloat16_t*>(row + i)); });
  }
  if (i < inner) {
    const auto rest = static_cast<std::size_t>(inner - i);
    add([&](const BF16* row) HWY_ATTR {
      return hn::LoadN(db, reinterpret_cast<const hwy::bfloat16_t*>(row + i), rest);
    });
  }
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) emit(m, n, hn::ReduceSum(d, sum[m][n]));
  }
}

void run_bf16_block(const ops::LinearParams& p, const Block& block) {
  const std::int64_t inner = p.x.dim(1);
  for_dot_tiles(block.rows, block.columns, [&]<int MR, int NR>(std::int64_t m0, std::int64_t n0) {
    const BF16* a[MR];
    const BF16* b[NR];
    for (int m = 0; m < MR; ++m) {
      a[m] = reinterpret_cast<const BF16*>(row2(p.x, block.row + m0 + m));
    }
    for (int n = 0; n < NR; ++n) {
      b[n] = reinterpret_cast<const BF16*>(row2(p.weight, block.column + n0 + n));
    }
    bf16_tile<MR, NR>(inner, a, b, [&](int m, int n, float value) {
      emit_output(p, block.row + m0 + m, block.column + n0 + n, value);
    });
  });
}
#endif

void run_block(const ops::LinearParams& p, const Block& block, float* scratch) {
#if HWY_NATIVE_DOT_BF16
  if (p.x.dtype == DType::kBF16 && p.weight.dtype == DType::kBF16) return run_bf16_block(p, block);
#endif
  run_float_block(p, block, scratch);
}

void linear(const ops::LinearParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t rows = p.x.dim(0);
  const std::int64_t columns = p.weight.dim(0);
  const std::int64_t block_rows = ops::linear_block_rows(p.x.dim(1));
  const std::int64_t row_blocks = (rows + block_rows - 1) / block_rows;
  const std::int64_t column_blocks = (columns + kBlockColumns - 1) / kBlockColumns;
  parallel_for(launch.executor, row_blocks * column_blocks, [&](std::int64_t task, int worker) {
    Block block{task / column_blocks * block_rows, block_rows, task % column_blocks * kBlockColumns,
                kBlockColumns};
    if (block.row + block.rows > rows) block.rows = rows - block.row;
    if (block.column + block.columns > columns) block.columns = columns - block.column;
    run_block(p, block, launch.scratch<float>(worker));
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
