// Products of any types and strides, in float32: a block has 64 rows and 64 weights, a thread 4 of
// each, 16 inner elements at a time. The order of a sum is the same for every row.
#include "src/cuda/smxx/linear_tiles.cuh"

#include "src/cuda/grid.cuh"
#include "src/cuda/linear_store.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kSide = 64, kSlab = 16, kEach = 4;
constexpr int kThreads = (kSide / kEach) * (kSide / kEach);

using Slab = float[kSlab][kSide + 4];  // [inner][row]

/// Rows [first, first + 64) of a matrix, inner elements from k on; zeros beyond its ends.
__device__ void load_slab(const View& matrix, std::int64_t first, std::int64_t rows, std::int64_t k,
                          std::int64_t inner, Slab& slab) {
#pragma unroll
  for (int i = 0; i < kSide * kSlab / kThreads; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    const std::int64_t row = first + at / kSlab, column = k + at % kSlab;
    const bool inside = row < rows && column < inner;
    slab[at % kSlab][at / kSlab] = inside ? load(matrix, matrix.at(row, column)) : 0.0f;
  }
}

__device__ void add_products(const Slab& x, const Slab& w, int row, int column,
                             float (&sums)[kEach][kEach]) {
#pragma unroll
  for (int k = 0; k < kSlab; ++k) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        sums[i][j] = fmaf(x[k][row + i], w[k][column + j], sums[i][j]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) tiles_kernel(const __grid_constant__ LinearCall p) {
  __shared__ Slab x, w, g;
  let_next_begin();
  wait_for_writers();
  const int row = static_cast<int>(threadIdx.x) / (kSide / kEach) * kEach;
  const int column = static_cast<int>(threadIdx.x) % (kSide / kEach) * kEach;
  const std::int64_t across = (p.n + kSide - 1) / kSide;
  const std::int64_t tiles = (p.m + kSide - 1) / kSide * across;
  for (std::int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const std::int64_t first = tile / across * kSide, first_n = tile % across * kSide;
    float sums[kEach][kEach]{}, gates[kEach][kEach]{};
    for (std::int64_t k = 0; k < p.k; k += kSlab) {
      __syncthreads();  // the slab before has been read
      load_slab(p.x, first, p.m, k, p.k, x);
      load_slab(p.weight, first_n, p.n, k, p.k, w);
      if (p.gate_weight.data != nullptr) load_slab(p.gate_weight, first_n, p.n, k, p.k, g);
      __syncthreads();
      add_products(x, w, row, column, sums);
      if (p.gate_weight.data != nullptr) add_products(x, g, row, column, gates);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if (first + row + i >= p.m || first_n + column + j >= p.n) continue;
        store_product(p, first + row + i, first_n + column + j, sums[i][j], gates[i][j]);
      }
    }
  }
}

}  // namespace

Status run_linear_tiles(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  const LinearCall p(params);
  if (p.m * p.n == 0) return {};
  const std::int64_t tiles = (p.m + kSide - 1) / kSide * ((p.n + kSide - 1) / kSide);
  return launch_early("linear", launch, tiles_kernel, grid_for(tiles, 1, *launch.info), kThreads, 0,
                      p);
}

}  // namespace hybridattn::cuda
