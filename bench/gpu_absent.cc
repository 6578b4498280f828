// The GPU benchmarks of a build without CUDA: none.
#include "bench/gpu.h"

namespace hybridattn::bench {

std::vector<std::string> gpu_suites() { return {}; }

Status run_gpu_suites(const std::vector<std::string>&, const ContextOptions&, bool) {
  return error(StatusCode::kUnsupported, "bench: this build has no CUDA kernels");
}

Result<GpuCeilings> measure_gpu(const ContextOptions&) {
  return error(StatusCode::kUnsupported, "bench: this build has no CUDA kernels");
}

}  // namespace hybridattn::bench
