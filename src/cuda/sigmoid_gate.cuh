// The output gate of full attention, over some heads of a token at once: as an op, and behind
// kernels of attention.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/row_elements.cuh"

namespace hybridattn::cuda {

/// Heads of a thread whose elements are on their way.
inline constexpr int kGatedHeads = 4;

__host__ __device__ inline std::int64_t gated_groups(std::int64_t heads) {
  return (heads + kGatedHeads - 1) / kGatedHeads;
}

/// A thread's kPack dims of kGatedHeads heads of one token.
struct GatedPart {
  std::int64_t token, head, first;

  /// `i`: among the parts of all tokens, `groups` * `units` each.
  __device__ GatedPart(std::int64_t i, std::int64_t groups, std::int64_t units) {
    const Split group = split(i, units), at = split(group.whole, groups);
    token = at.whole;
    head = at.rest * kGatedHeads;
    first = group.rest * kPack;
  }
};

__device__ inline RowElements next_head(const RowElements& row, const View& view) {
  return {row.data + (view.stride[1] << log2_size(view.dtype)), row.dtype};
}

/// x * sigmoid(gate) of a part of heads under `heads`. kZerosStay: whatever their gates.
template <bool kZerosStay>
__device__ inline void gate_part(const View& x, const View& gate, const View& out,
                                 std::int64_t heads, const GatedPart& at) {
  RawElements from[kGatedHeads], by[kGatedHeads];
  RowElements x_row = row_of(x, at.token, at.head), gate_row = row_of(gate, at.token, at.head);
#pragma unroll
  for (int h = 0; h < kGatedHeads; ++h) {
    if (at.head + h >= heads) break;
    from[h] = fetch_elements(x_row, at.first);
    by[h] = fetch_elements(gate_row, at.first);
    x_row = next_head(x_row, x);
    gate_row = next_head(gate_row, gate);
  }
  RowElements out_row = row_of(out, at.token, at.head);
#pragma unroll
  for (int h = 0; h < kGatedHeads; ++h) {
    if (at.head + h >= heads) break;
    float values[kPack], gates[kPack];
    unpack_elements(from[h], x.dtype, values);
    unpack_elements(by[h], gate.dtype, gates);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      if (!kZerosStay || values[e] != 0.0f) values[e] *= sigmoid(gates[e]);
    }
    store_elements(out_row, at.first, values);
    out_row = next_head(out_row, out);
  }
}

}  // namespace hybridattn::cuda
