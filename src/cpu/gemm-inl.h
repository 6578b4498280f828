// Small matrix products in registers: the tiles under linear, the chunked delta rule and attention.
//
// Each output is summed in an order that depends on the inner length alone, never on how many rows
// or columns are computed beside it. That makes a row's result independent of its neighbours.
#include "src/cpu/simd-inl.h"

#if defined(HYBRIDATTN_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_GEMM_INL_H_
#undef HYBRIDATTN_CPU_GEMM_INL_H_
#else
#define HYBRIDATTN_CPU_GEMM_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

// Rows of A in one tile: 4 x 4 sums fill half of AVX-512's registers, 2 x 4 half of AVX2's.
inline constexpr int kTileRows = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
inline constexpr int kTileColumns = 4;

/// What becomes of a finished sum: `emit(m, n, value)`.
/// MR x NR dot products of rows of A and rows of B, both dense along the inner dimension.
template <int MR, int NR, class TA, class TB, class Emit>
HWY_INLINE void dot_tile(std::int64_t inner, const TA* const* a, const TB* const* b,
                         const Emit& emit) {
  const DF d;
  const std::int64_t step = lanes();
  VF sum[MR][NR];
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) sum[m][n] = hn::Zero(d);
  }
  std::int64_t i = 0;
  for (; i + step <= inner; i += step) {
    VF column[NR];
    for (int n = 0; n < NR; ++n) column[n] = load_full(b[n] + i);
    for (int m = 0; m < MR; ++m) {
      const VF row = load_full(a[m] + i);
      for (int n = 0; n < NR; ++n) sum[m][n] = hn::MulAdd(row, column[n], sum[m][n]);
    }
  }
  if (i < inner) {
    VF column[NR];
    for (int n = 0; n < NR; ++n) column[n] = load_part(b[n] + i, inner - i);
    for (int m = 0; m < MR; ++m) {
      const VF row = load_part(a[m] + i, inner - i);
      for (int n = 0; n < NR; ++n) sum[m][n] = hn::MulAdd(row, column[n], sum[m][n]);
    }
  }
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) emit(m, n, hn::ReduceSum(d, sum[m][n]));
  }
}

/// All M x N dot products in tiles. `tile.template operator()<MR, NR>(m, n)` computes one.
template <class Tile>
HWY_INLINE void for_dot_tiles(std::int64_t rows, std::int64_t columns, const Tile& tile) {
  std::int64_t n = 0;
  for (; n + kTileColumns <= columns; n += kTileColumns) {
    std::int64_t m = 0;
    for (; m + kTileRows <= rows; m += kTileRows) {
      tile.template operator()<kTileRows, kTileColumns>(m, n);
    }
    for (; m < rows; ++m) tile.template operator()<1, kTileColumns>(m, n);
  }
  for (; n < columns; ++n) {
    std::int64_t m = 0;
    for (; m + kTileRows <= rows; m += kTileRows) tile.template operator()<kTileRows, 1>(m, n);
    for (; m < rows; ++m) tile.template operator()<1, 1>(m, n);
  }
}

/// C[m, n] = sum_i A[m, i] B[n, i], float32. Strides in elements.
inline void gemm_nt(std::int64_t rows, std::int64_t columns, std::int64_t inner, const float* a,
                    std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c,
                    std::int64_t c_stride) {
  for_dot_tiles(rows, columns, [&]<int MR, int NR>(std::int64_t m0, std::int64_t n0) {
    const float* a_rows[MR];
    const float* b_rows[NR];
    for (int m = 0; m < MR; ++m) a_rows[m] = a + (m0 + m) * a_stride;
    for (int n = 0; n < NR; ++n) b_rows[n] = b + (n0 + n) * b_stride;
    dot_tile<MR, NR>(inner, a_rows, b_rows,
                     [&](int m, int n, float value) { c[(m0 + m) * c_stride + n0 + n] = value; });
  });
}

/// One tile of gemm_nn: MR rows by NV vectors of C.
template <int MR, int NV>
HWY_INLINE void outer_tile(std::int64_t inner, const float* a, std::int64_t a_row,
                           std::int64_t a_column, const float* b, std::int64_t b_stride, float* c,
                           std::int64_t c_stride) {
  const DF d;
  const std::int64_t step = lanes();
  VF sum[MR][NV];
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < NV; ++v) sum[m][v] = hn::LoadU(d, c + m * c_stride + v * step);
  }
  for (std::int64_t i = 0; i < inner; ++i) {
    VF row[NV];
    for (int v = 0; v < NV; ++v) row[v] = hn::LoadU(d, b + i * b_stride + v * step);
    for (int m = 0; m < MR; ++m) {
      const VF factor = hn::Set(d, a[m * a_row + i * a_column]);
      for (int v = 0; v < NV; ++v) sum[m][v] = hn::MulAdd(factor, row[v], sum[m][v]);
    }
  }
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < NV; ++v) hn::StoreU(sum[m][v], d, c + m * c_stride + v * step);
  }
}

/// C[m, n] += sum_i A[m, i] B[i, n], float32. A has any row and column stride; `columns` is a
/// multiple of 16 (head dims are padded to that).
inline void gemm_nn(std::int64_t rows, std::int64_t columns, std::int64_t inner, const float* a,
                    std::int64_t a_row, std::int64_t a_column, const float* b,
                    std::int64_t b_stride, float* c, std::int64_t c_stride) {
  const std::int64_t step = lanes();
  std::int64_t n = 0;
  for (; n + kTileColumns * step <= columns; n += kTileColumns * step) {
    std::int64_t m = 0;
    for (; m + kTileRows <= rows; m += kTileRows) {
      outer_tile<kTileRows, kTileColumns>(inner, a + m * a_row, a_row, a_column, b + n, b_stride,
                                          c + m * c_stride + n, c_stride);
    }
    for (; m < rows; ++m) {
      outer_tile<1, kTileColumns>(inner, a + m * a_row, a_row, a_column, b + n, b_stride,
                                  c + m * c_stride + n, c_stride);
    }
  }
  for (; n < columns; n += step) {
    std::int64_t m = 0;
    for (; m + kTileRows <= rows; m += kTileRows) {
      outer_tile<kTileRows, 1>(inner, a + m * a_row, a_row, a_column, b + n, b_stride,
                               c + m * c_stride + n, c_stride);
    }
    for (; m < rows; ++m) {
      outer_tile<1, 1>(inner, a + m * a_row, a_row, a_column, b + n, b_stride, c + m * c_stride + n,
                       c_stride);
    }
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_GEMM_INL_H_
