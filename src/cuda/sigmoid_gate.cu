// The output gate of full attention on CUDA: a thread for some dims of some heads, or for one.
#include "src/cuda/kernels.h"
#include "src/cuda/sigmoid_gate.cuh"

namespace hybridattn::cuda {
namespace {

struct GateParams {
  View x, gate, out;
  const std::uint8_t* pad;  // optional [tokens]
  std::int64_t tokens, heads, dim;
};

__device__ bool is_pad(const GateParams& p, std::int64_t token) {
  return p.pad != nullptr && p.pad[token] != 0;
}

__global__ void __launch_bounds__(kElementThreads)
    sigmoid_gate_kernel(const __grid_constant__ GateParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t units = p.dim / kPack, groups = gated_groups(p.heads);
  const std::int64_t count = p.tokens * groups * units;
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    const GatedPart at(i, groups, units);
    if (!is_pad(p, at.token)) {
      gate_part<false>(p.x, p.gate, p.out, p.heads, at);
      continue;
    }
    const float zeros[kPack] = {};
    for (std::int64_t h = at.head; h < min(at.head + kGatedHeads, p.heads); ++h) {
      store_elements(row_of(p.out, at.token, h), at.first, zeros);
    }
  }
}

__global__ void __launch_bounds__(kElementThreads)
    sigmoid_gate_of_one_kernel(const __grid_constant__ GateParams p) {
  let_next_begin();
  wait_for_writers();
  for (std::int64_t i = flat_index(); i < p.tokens * p.heads * p.dim; i += flat_step()) {
    const Split row = split(i, p.dim), at = split(row.whole, p.heads);
    float x[1] = {}, gate[1];
    if (!is_pad(p, at.whole)) {
      load_elements(row_of(p.x, at.whole, at.rest), row.rest, x);
      load_elements(row_of(p.gate, at.whole, at.rest), row.rest, gate);
      x[0] *= sigmoid(gate[0]);
    }
    store_elements(row_of(p.out, at.whole, at.rest), row.rest, x);
  }
}

Status run(const ops::SigmoidGateParams& p, const core::DeviceLaunch& launch) {
  const GateParams params{View(p.x),  View(p.gate), View(p.out), p.pad,
                          p.x.dim(0), p.x.dim(1),   p.x.dim(2)};
  const bool packs = in_packs(params.dim, p.x, p.gate, ConstTensorView(p.out));
  const std::int64_t of_token =
      packs ? gated_groups(params.heads) * (params.dim / kPack) : params.heads * params.dim;
  if (params.tokens * of_token == 0) return {};
  return launch_early("sigmoid_gate", launch,
                      packs ? sigmoid_gate_kernel : sigmoid_gate_of_one_kernel,
                      grid_for(params.tokens * of_token, kElementThreads, *launch.info),
                      kElementThreads, 0, params);
}

}  // namespace

core::DeviceKernels<ops::SigmoidGateParams> sigmoid_gate_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
