// The matrices of a chunk by two warpgroups, from keys and queries as the copy engine brought them:
// one finds factors and P, the other T and P T.
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

/// P T in the place of P.
template <class X>
__device__ void multiply_scores(ChunkMatrices& matrices, const SolvePlace& at) {
  std::uint32_t scores[4][4];
#pragma unroll
  for (int m = 0; m < 4; ++m) load_matrices(scores[m], scores_address(matrices, at, m));
  float sums[32];
#pragma unroll
  for (float& x : sums) x = 0.0f;
  constexpr int kColumnBytes = sizeof(matrices.columns[0]);
  const std::uint64_t t = narrow_columns(shared_address(matrices.columns[0][kSolve]), kColumnBytes);
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

/// T and P T of all chunks of a head.
template <class X>
__device__ void solve_chunks(int chunks, FusedShared& shared) {
  StageRing ring;
  const auto meet = [] { asm volatile("bar.sync 1, 128;" ::: "memory"); };
  for (; chunks > 0; --chunks, ring.next()) {
    FusedStage& stage = shared.stages[ring.stage()];
    wait_barrier(&shared.full[ring.stage()], ring.parity());
    const SolvePlace at(static_cast<int>(threadIdx.x) % 128 / 32);
    {
      float products[8][4];
      begin_key_product<X>(stage, 0, products);
      wait_barrier(&shared.factored[ring.stage()], ring.parity());
      const RowFactors rows(stage.norms, stage.gates, at);
      end_key_product(products);
      scale_lower(shared.solve, {stage.gates, stage.norms, stage.columns}, at, rows, products);
    }
    __syncwarp();
    solve_diagonal<X>(at, stage.gates.beta, shared.solve, stage.matrices);
    solve_below<X, true>(at, stage.gates.beta, shared.solve, stage.matrices, meet);
    fence_async_proxy();
    meet();
    wait_barrier(&shared.scored[ring.stage()], ring.parity());
    multiply_scores<X>(stage.matrices, at);
    fence_async_proxy();
    arrive(&shared.solved[ring.stage()]);
  }
}

/// Factors and P of all chunks of a head; the first warp also moves what comes and goes.
template <class X>
__device__ void help_chunks(const ChunkParams& p, const WalkTask& task, Carrier carrier,
                            FusedShared& shared) {
  const auto meet = [] { asm volatile("bar.sync 2, 128;" ::: "memory"); };
  StageRing ring;
  int first = task.row.start, count = task.row.length;
  const bool carries = threadIdx.x % 128 < 32, sums = threadIdx.x % 128 >= 96;
  LaneGates gates(p, first, sums ? count : 0, task.head);
  const auto load_gates = [&](int from, int left) {  // a chunk ahead: memory is far
    int head = task.head;
    asm volatile("" : "+r"(head));  // what follows from it would stay in registers
    gates = LaneGates(p, from, left, head);
  };
  if (carries) carrier.begin();
  for (; count > 0; count -= kChunk, first += kChunk, ring.next()) {
    FusedStage& stage = shared.stages[ring.stage()];
    wait_barrier(&shared.full[ring.stage()], ring.parity());
    find_norms<X>(p, stage);
    if (sums) {
      sum_decays(gates, stage.gates.sum_high, stage.gates.sum_low);
      *reinterpret_cast<float2*>(&stage.gates.beta[threadIdx.x % 32 * 2]) =
          make_float2(gates.beta[0], gates.beta[1]);
      load_gates(first + kChunk, count - kChunk);
    }
    meet();
    write_factors(stage);
    arrive(&shared.factored[ring.stage()]);
    if (carries) carrier.try_change(first);
    float products[8][4];
    begin_key_product<X>(stage, 1, products);
    meet();
    const SolvePlace at(static_cast<int>(threadIdx.x) % 128 / 32);
    const RowFactors rows(stage.norms, stage.gates, at);
    end_key_product(products);
    scale_scores<X>(stage.matrices, {stage.gates, stage.norms, stage.columns}, at, rows, products);
    arrive(&shared.scored[ring.stage()]);
    // The next chunk's inputs come when that of two before this one has gone.
    if (carries) carrier.change_all(first - kChunk);
    if (carries) carrier.try_change(first);
  }
  if (carries) carrier.change_all(first);
}

}  // namespace hybridattn::cuda
