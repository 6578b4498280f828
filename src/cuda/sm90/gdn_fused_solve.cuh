// The matrices of a chunk by one warpgroup, from keys and queries as the copy engine brought them.
#pragma once

#include "src/cuda/sm90/gdn_fused_stage.cuh"

namespace hybridattn::cuda {

/// Begins K K^T or, from Q's tiles, Q K^T: rows of a thread as in KeyProducts. Q stands behind K.
template <class X>
__device__ void begin_key_product(const FusedStage& stage, int from, float (&products)[8][4]) {
  std::uint32_t place = shared_address(stage.kq[0][0]);
  asm volatile("" : "+r"(place));  // or the places of all steps would stay in registers
  constexpr int kHalfBytes = sizeof(stage.kq[0]);
  const std::uint64_t k = matrix_descriptor(place, 16);
  const std::uint64_t rows = advance(k, from * kTileBytes);
  begin_products();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    const int at = step / 4 * kHalfBytes + step % 4 * 32;
    multiply_shared<X>(reinterpret_cast<float(&)[32]>(products), advance(rows, at), advance(k, at),
                       step > 0);
  }
  commit_products();
}

__device__ inline void end_key_product(float (&products)[8][4]) {
  wait_products<0>();
  hold(reinterpret_cast<float(&)[32]>(products));
}

/// P T from P in registers.
template <class X>
__device__ void multiply_scores(ChunkMatrices& matrices, const SolvePlace& at,
                                const std::uint32_t (&scores)[4][4]) {
  float sums[32];
#pragma unroll
  for (float& x : sums) x = 0.0f;
  constexpr int kColumnBytes = sizeof(matrices.columns[0]);
  const std::uint64_t t =
      narrow_columns(shared_address(matrices.columns[0][kSolve]), kColumnBytes);
  hold(sums);
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_columns<X>(sums, scores[step], advance(t, step * kBlockBytes));
  }
  commit_products();
  wait_products<0>();
  hold(sums);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    if (m > at.block) break;
    const float* d = sums + 8 * m;
    store_matrices(scores_address(matrices, at, m), {pack<X>(d[0], d[1]), pack<X>(d[2], d[3]),
                                                     pack<X>(d[4], d[5]), pack<X>(d[6], d[7])});
  }
}

/// The matrices of all chunks of a head.
template <class X>
__device__ void solve_chunks(int chunks, FusedShared& shared) {
  StageRing ring;
  const auto meet = [] { asm volatile("bar.sync 1, 128;" ::: "memory"); };
  for (; chunks > 0; --chunks, ring.next()) {
    FusedStage& stage = shared.stages[ring.stage()];
    wait_barrier(&shared.full[ring.stage()], ring.parity());
    const SolvePlace at(static_cast<int>(threadIdx.x) % 128 / 32);
    const ScaleInputs in{stage.gates, stage.norms, stage.columns};
    float products[8][4];
    begin_key_product<X>(stage, 0, products);
    wait_barrier(&shared.factored[ring.stage()], ring.parity());
    end_key_product(products);
    {
      const RowFactors rows(stage.norms, stage.gates, at);
#pragma unroll
      for (int m = 0; m < 4; ++m) scale_lower(shared.solve, in, at, rows, m, products);
    }
    __syncwarp();
    begin_key_product<X>(stage, 1, products);
    end_key_product(products);
    std::uint32_t scores[4][4];
    {
      const RowFactors rows(stage.norms, stage.gates, at);
#pragma unroll
      for (int m = 0; m < 4; ++m) scale_scores<X>(in, at, rows, m, products, scores[m]);
    }
    solve_diagonal<X>(at, stage.gates.beta, shared.solve, stage.matrices);
    solve_below<X>(at, stage.gates.beta, shared.solve, stage.matrices, meet);
    fence_async_proxy();
    meet();
    multiply_scores<X>(stage.matrices, at, scores);
    fence_async_proxy();
    arrive(&shared.solved[ring.stage()]);
  }
}

}  // namespace hybridattn::cuda
