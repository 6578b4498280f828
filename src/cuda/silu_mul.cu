// silu(gate) * up on CUDA: a thread for some elements of a token.
#include "src/cuda/formulas.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/row_elements.cuh"

namespace hybridattn::cuda {
namespace {

struct SiluParams {
  View gate, up, out;
  std::int64_t tokens, dim;
};

template <int N>
__global__ void __launch_bounds__(kElementThreads)
    silu_mul_kernel(const __grid_constant__ SiluParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t units = p.dim / N;
  for (std::int64_t i = flat_index(); i < p.tokens * units; i += flat_step()) {
    const Split at = split(i, units);
    const std::int64_t first = at.rest * N;
    float gate[N], up[N];
    load_elements(row_of(p.gate, at.whole), first, gate);
    load_elements(row_of(p.up, at.whole), first, up);
#pragma unroll
    for (int e = 0; e < N; ++e) up[e] *= silu(gate[e]);
    store_elements(row_of(p.out, at.whole), first, up);
  }
}

Status run(const ops::SiluMulParams& p, const core::DeviceLaunch& launch) {
  const SiluParams params{View(p.gate), View(p.up), View(p.out), p.gate.dim(0), p.gate.dim(1)};
  const std::int64_t elements = params.tokens * params.dim;
  const bool packs = in_packs(params.dim, p.gate, p.up, ConstTensorView(p.out));
  return launch_elements("silu_mul", launch, packs, silu_mul_kernel<kPack>, silu_mul_kernel<1>,
                         elements, params);
}

}  // namespace

core::DeviceKernels<ops::SiluMulParams> silu_mul_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
