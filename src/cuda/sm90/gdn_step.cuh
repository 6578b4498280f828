// A step of the walk over the chunks of one head of one row, by warpgroup instructions. Other warps
// bring the chunks.
#pragma once

#include "src/cuda/sm80/gdn_state.cuh"
#include "src/cuda/sm90/gdn_stage.cuh"

namespace hybridattn::cuda {

/// One chunk: S after it and, from a stage with outputs, the output of the warpgroup's channels.
/// `wait` returns when the chunk is there, `wait_solved` when its matrices and factors are.
/// V is zero where `with_v` is false. `store` is given the output.
template <class X, class Stage, class Wait, class WaitSolved, class Store>
__device__ void walk_chunk(StateRows& rows, Stage& stage, bool with_v, const Wait& wait,
                           const WaitSolved& wait_solved, const Store& store) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
  auto& s = rows.s;
  std::uint32_t operand[4][4];
  // [64 channels][64 tokens]: S K^T, then U; with outputs also S Q^T, then the output.
  float xo[Stage::kOutputs ? 64 : 32];
  // As much of S as there are registers for is an operand at a time.
  constexpr int kAtOnce = Stage::kStateSteps;
  std::uint32_t state[kAtOnce][4];
  const auto convert = [&](int first) {
#pragma unroll
    for (int i = 0; i < 4 * kAtOnce; ++i) {
      state[i / 4][i % 4] = pack<X>(s[8 * first + 2 * i], s[8 * first + 2 * i + 1]);
    }
  };
  convert(0);
  wait();
  const int half_bytes = static_cast<int>(stage.keys(1) - stage.keys(0));
  const std::uint64_t rows_of_kq = matrix_descriptor(shared_address(stage.keys(0)), 16);
#pragma unroll
  for (int first = 0; first < 8; first += kAtOnce) {
    if (first > 0) {
      wait_products<0>();
      hold(s);
      convert(first);
    }
    begin_products();
#pragma unroll
    for (int step = first; step < first + kAtOnce; ++step) {
      multiply_rows<X>(xo, state[step - first],
                       advance(rows_of_kq, step / 4 * half_bytes + step % 4 * 32), step > 0);
    }
    commit_products();
  }
  wait_products<0>();
  wait_solved();
  hold(xo);
  // V - exp(G) r S k, as the left operand.
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    std::uint32_t values[4] = {};  // V^T of the warp's channels
    if (with_v) {
      load_transposed(values,
                      shared_address(stage.v) +
                          swizzled(16 * pair + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 key = column_factors(stage.factors.key_factor, 2 * pair + n);
      const float2 query = column_factors(stage.factors.query_factor, 2 * pair + n);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = 8 * pair + 4 * n + 2 * half;
        const float2 v = unpack<X>(values[2 * n + half]);
        operand[pair][2 * n + half] = pack<X>(v.x - key.x * xo[at], v.y - key.y * xo[at + 1]);
        xo[at] = xo[at + 1] = 0.0f;
        if constexpr (Stage::kOutputs) {
          xo[32 + at] *= query.x;
          xo[32 + at + 1] *= query.y;
        }
      }
    }
  }
  const int column_bytes = static_cast<int>(stage.solve(1) - stage.solve(0));
  const std::uint64_t columns = narrow_descriptor(shared_address(stage.solve(0)));
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_rows<X>(xo, operand[step], advance(columns, step * column_bytes), 1);
  }
  commit_products();
  const float state_factor = stage.factors.state_factor;
#pragma unroll
  for (int i = 0; i < 64; ++i) s[i] *= state_factor;
  wait_products<0>();
  hold(xo);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 factor = column_factors(stage.factors.update_factor, n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 4 * n + 2 * half;
      operand[n / 2][n % 2 * 2 + half] = pack<X>(factor.x * xo[at], factor.y * xo[at + 1]);
    }
  }
  const std::uint64_t columns_of_k = matrix_descriptor(shared_address(stage.keys(0)), half_bytes);
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_columns<X>(s, operand[step], advance(columns_of_k, step * 2048));
  }
  commit_products();
  if constexpr (Stage::kOutputs) store(xo + 32);
  wait_products<0>();
  hold(s);
}

}  // namespace hybridattn::cuda
