// What becomes of the sums of a tile of streamed products: outputs one by one where a block has
// few, and eight neighbours of a row at a time where it has many.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/row_elements.cuh"
#include "src/cuda/sm90/linear_streamed_sums.cuh"

namespace hybridattn::cuda::streamed {

template <int Rows, bool Gated>
struct Outputs {
  static constexpr int kOutputs = Exchange<Rows, Gated>::kOutputs;  // of a tile
  static constexpr int kAhead = 2;  // outputs of a thread that are read before their sums are there
  static_assert(ops::kLinearSquares == kPack);

  const LinearCall& p;
  const StreamedCut& cut;
  const Exchange<Rows, Gated>& exchange;
  const float* const factors;  // of the sums of each row, or no data
  const int rows = exchange.rows, share = exchange.share, share_log2 = exchange.share_log2;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  // Few rows have so few outputs that most threads would have none.
  const bool pieces =
      (Rows > 8) && (cut.pieces) && (rows * share > kMultipliers) && (share >= kPack);

  /// Output `i` of this block in a tile.
  struct Output {
    int row, column;
    std::int64_t j, at;
    bool valid;
  };
  __device__ Output output(int i, int tile) const {
    const int column = i & (share - 1), row = i >> share_log2;  // a power of two
    const std::int64_t j = first_of(tile) + column;
    const bool valid = row < rows && j < p.n;
    return {row, column, j, valid ? p.out.at(row, j) : 0, valid};
  }
  /// The first output of this block in a tile.
  __device__ std::int64_t first_of(int tile) const {
    return std::int64_t{tile} * kOutputs + exchange.slice * share;
  }
  __device__ float factor(int row) const { return factors != nullptr ? factors[row] : 1.0f; }

  /// What of outputs is read before their sums are there: what they are added to, and the weights
  /// of the norm behind them.
  struct Early {
    float before[kAhead]{}, weight[kAhead]{};
  };
  __device__ void read(const Output& output, float& before, float& weight) const {
    if (!output.valid) return;
    if (p.accumulate) before = load(p.out, output.at);
    if (p.next_norm != nullptr) weight = __ldg(p.next_norm + output.j);
  }
  /// Before the products of a tile.
  __device__ void read_early(int tile, Early& early) const {
    if (pieces || (!p.accumulate && p.next_norm == nullptr)) return;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      read(output(thread + i * kMultipliers, tile), early.before[i], early.weight[i]);
    }
  }
  /// Behind them, when all sums are there.
  __device__ void store(int tile, const Early& early, int buffer) const {
    if (pieces) return store_pieces(tile, buffer);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      store_output(output(thread + i * kMultipliers, tile), early.before[i], early.weight[i],
                   buffer);
    }
    for (int i = thread + kAhead * kMultipliers; i < rows * share; i += kMultipliers) {
      const Output out = output(i, tile);
      float before = 0, weight = 0;
      read(out, before, weight);
      store_output(out, before, weight, buffer);
    }
  }

  __device__ void store_output(const Output& output, float before, float weight, int buffer) const {
    if (!output.valid) return;
    const float by = factor(output.row);
    float x = by * exchange.total(buffer, output.column, output.row);
    if constexpr (Gated) x *= silu(by * exchange.total(buffer, share + output.column, output.row));
    x += before;
    cuda::store(p.out, output.at, x);
    if constexpr (!Gated) {
      if (p.next_norm != nullptr) hand_on(output, x, weight);
    }
  }
  /// The half of the next norm that comes before its product. Eight neighbouring lanes have outputs
  /// of one row, all valid or none.
  __device__ void hand_on(const Output& output, float x, float weight) const {
    cuda::store(p.next_x, p.next_x.at(output.row, output.j), fmaf(x, weight, x));
    const unsigned eight = 0xFFu << (lane & 24);
    float squares = x * x;
#pragma unroll
    for (int by = 1; by < kPack; by *= 2) squares += __shfl_xor_sync(eight, squares, by);
    if (lane % kPack == 0) store_squares(output.row, output.j, squares);
  }
  __device__ void store_squares(int row, std::int64_t j, float squares) const {
    cuda::store(p.next_squares, p.next_squares.at(row, j / kPack), squares);
  }

  /// Eight outputs of a row each: a lane has a row, so that 32 rows read no two sums of one bank,
  /// and 16 no more than two.
  __device__ void store_pieces(int tile, int buffer) const {
    const int row = thread % Rows;
    if (row >= rows) return;
    const float by = factor(row);
    const RowElements out = row_of(p.out, row);
    for (int column = thread / Rows * kPack; column < share;
         column += kMultipliers / Rows * kPack) {
      const std::int64_t j = first_of(tile) + column;
      if (j >= p.n) return;
      float x[kPack], before[kPack]{};
      if (p.accumulate) load_elements(out, j, before);
      exchange.totals(buffer, column, row, x);
      if constexpr (Gated) {
        float gate[kPack];
        exchange.totals(buffer, share + column, row, gate);
#pragma unroll
        for (int i = 0; i < kPack; ++i) x[i] = by * x[i] * silu(by * gate[i]);
      } else {
#pragma unroll
        for (int i = 0; i < kPack; ++i) x[i] = fmaf(by, x[i], before[i]);
      }
      store_elements(out, j, x);
      if constexpr (!Gated) {
        if (p.next_norm != nullptr) hand_piece_on(row, j, x);
      }
    }
  }
  __device__ void hand_piece_on(int row, std::int64_t j, const float (&x)[kPack]) const {
    float weight[kPack], next[kPack], squares[kPack];
    load_elements({reinterpret_cast<std::byte*>(const_cast<float*>(p.next_norm)), DType::kF32}, j,
                  weight);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      next[i] = fmaf(x[i], weight[i], x[i]);
      squares[i] = x[i] * x[i];
    }
    store_elements(row_of(p.next_x, row), j, next);
#pragma unroll
    for (int by = 1; by < kPack; by *= 2) {  // as even as in hand_on
#pragma unroll
      for (int i = 0; i < kPack; i += 2 * by) squares[i] += squares[i + by];
    }
    store_squares(row, j, squares[0]);
  }
};

}  // namespace hybridattn::cuda::streamed
