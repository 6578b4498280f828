// The output gate of attention behind its kernels: over what they wrote, and nothing else.
#include "src/cuda/attention_gate.cuh"

#include "src/cuda/sigmoid_gate.cuh"

namespace hybridattn::cuda {
namespace {

struct GateRowsParams {
  AttentionCall call;
  int dim;
};

__global__ void __launch_bounds__(kElementThreads)
    attention_gate_kernel(const __grid_constant__ GateRowsParams p) {
  const AttentionCall& call = p.call;
  let_next_begin();
  wait_for_writers();
  const std::int64_t units = p.dim / kPack, groups = gated_groups(call.heads);
  const std::int64_t count =
      std::int64_t{call.tables.first_query[call.tables.rows]} * groups * units;
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    GatedPart at(i, groups, units);
    const auto index = static_cast<int>(at.token);  // among the queries of all rows
    const int row = row_of_query(call.tables, index);
    at.token = std::int64_t{call.tables.q_start[row]} + index - call.tables.first_query[row];
    // A query that saw nothing has zeros, whatever its gates.
    gate_part<true>(call.out, call.gate, call.out, call.heads, at);
  }
}

}  // namespace

Status gate_attention_rows(const AttentionCall& call, int dim, const core::DeviceLaunch& launch) {
  const std::int64_t parts =
      std::int64_t{call.tables.queries} * gated_groups(call.heads) * (dim / kPack);
  if (parts == 0) return {};
  return launch_early("attention", launch, attention_gate_kernel,
                      dim3(grid_for(parts, kElementThreads, *launch.info)), kElementThreads, 0,
                      GateRowsParams{call, dim});
}

}  // namespace hybridattn::cuda
