// The output gate of full attention on CUDA: a thread for some elements of a head.
#include "src/cuda/formulas.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/row_elements.cuh"

namespace hybridattn::cuda {
namespace {

struct GateParams {
  View x, gate, out;
  const std::uint8_t* pad;  // optional [tokens]
  std::int64_t tokens, heads, dim;
};

template <int N>
__global__ void __launch_bounds__(kElementThreads)
    sigmoid_gate_kernel(const __grid_constant__ GateParams p) {
  wait_for_writers();
  let_next_begin();
  const std::int64_t units = p.dim / N;
  const std::int64_t count = p.tokens * p.heads * units;
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    const Split row = split(i, units);
    const Split at = split(row.whole, p.heads);
    const std::int64_t first = row.rest * N;
    float x[N] = {}, gate[N];
    if (p.pad == nullptr || p.pad[at.whole] == 0) {
      load_elements(row_of(p.x, at.whole, at.rest), first, x);
      load_elements(row_of(p.gate, at.whole, at.rest), first, gate);
#pragma unroll
      for (int e = 0; e < N; ++e) x[e] *= sigmoid(gate[e]);
    }
    store_elements(row_of(p.out, at.whole, at.rest), first, x);
  }
}

Status run(const ops::SigmoidGateParams& p, const core::DeviceLaunch& launch) {
  const GateParams params{View(p.x),  View(p.gate), View(p.out), p.pad,
                          p.x.dim(0), p.x.dim(1),   p.x.dim(2)};
  const std::int64_t elements = params.tokens * params.heads * params.dim;
  const bool packs = in_packs(params.dim, p.x, p.gate, ConstTensorView(p.out));
  return launch_elements("sigmoid_gate", launch, packs, sigmoid_gate_kernel<kPack>,
                         sigmoid_gate_kernel<1>, elements, params);
}

}  // namespace

core::DeviceKernels<ops::SigmoidGateParams> sigmoid_gate_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
