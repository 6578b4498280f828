// The two gates on CUDA: a thread for each element of a and of b.
#include "src/core/formulas.h"
#include "src/cuda/element.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 256;

struct GatesParams {
  View a, b, a_log, dt_bias, log_decay, beta;
  std::int64_t tokens;
  int heads, channels;  // channels of a decay: 1, or K
  float beta_factor;
};

__global__ void __launch_bounds__(kThreads) gates_kernel(const __grid_constant__ GatesParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t decays = p.tokens * p.heads * p.channels;
  for (std::int64_t i = flat_index(); i < decays; i += flat_step()) {
    const std::int64_t channel = i % p.channels;
    const std::int64_t head = i / p.channels % p.heads;
    const std::int64_t token = i / p.channels / p.heads;
    const float x = load(p.a, p.a.at(token, head, channel));
    const float bias = load(p.dt_bias, p.dt_bias.at(head, channel));
    const double g =
        core::log_decay(double(load(p.a_log, p.a_log.at(head))), double(x) + double(bias));
    p.log_decay.as<float>()[p.log_decay.at(token, head, channel)] = static_cast<float>(g);
    if (channel != 0) continue;
    const double b = double(load(p.b, p.b.at(token, head)));
    p.beta.as<float>()[p.beta.at(token, head)] =
        p.beta_factor * static_cast<float>(core::sigmoid(b));
  }
}

Status run(const ops::GdnGatesParams& p, const core::DeviceLaunch& launch) {
  const GatesParams params{View(p.a),
                           View(p.b),
                           View(p.a_log),
                           View(p.dt_bias),
                           View(p.log_decay),
                           View(p.beta),
                           p.a.dim(0),
                           static_cast<int>(p.a.dim(1)),
                           static_cast<int>(p.a.rank == 3 ? p.a.dim(2) : 1),
                           p.allow_neg_eigval ? 2.0f : 1.0f};
  const std::int64_t count = params.tokens * params.heads * params.channels;
  if (count == 0) return {};
  return launch_early("gdn_gates", launch, gates_kernel, grid_for(count, kThreads, *launch.info),
                      kThreads, 0, params);
}

}  // namespace

core::DeviceKernels<ops::GdnGatesParams> gdn_gates_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
