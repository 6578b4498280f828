// The output gate of attention behind its kernels: over what they wrote, and nothing else.
#include "src/cuda/attention_gate.cuh"

#include "src/cuda/row_elements.cuh"

namespace hybridattn::cuda {
namespace {

struct GateRowsParams {
  AttentionCall call;
  int dim;
};

/// Consecutive threads take the elements of one head of one query.
__global__ void __launch_bounds__(kElementThreads)
    attention_gate_kernel(const __grid_constant__ GateRowsParams p) {
  const AttentionCall& call = p.call;
  wait_for_writers();
  let_next_begin();
  const int units = p.dim / kPack;
  const std::int64_t count =
      std::int64_t{call.tables.first_query[call.tables.rows]} * call.heads * units;
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    const Split head_row = split(i, units);
    const Split at = split(head_row.whole, call.heads);
    const auto index = static_cast<int>(at.whole);
    const int row = row_of_query(call.tables, index);
    const std::int64_t token =
        std::int64_t{call.tables.q_start[row]} + index - call.tables.first_query[row];
    const std::int64_t first = head_row.rest * kPack;
    const RowElements out = row_of(call.out, token, at.rest);
    float x[kPack], gate[kPack];
    load_elements(out, first, x);
    load_elements(row_of(call.gate, token, at.rest), first, gate);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      // A query that saw nothing has zeros, whatever its gates.
      x[e] = x[e] == 0.0f ? 0.0f : x[e] * sigmoid(gate[e]);
    }
    store_elements(out, first, x);
  }
}

}  // namespace

Status gate_attention_rows(const AttentionCall& call, int dim, const core::DeviceLaunch& launch) {
  const std::int64_t units = std::int64_t{call.tables.queries} * call.heads * (dim / kPack);
  if (units == 0) return {};
  return launch_early("attention", launch, attention_gate_kernel,
                      dim3(grid_for(units, kElementThreads, *launch.info)), kElementThreads, 0,
                      GateRowsParams{call, dim});
}

}  // namespace hybridattn::cuda
