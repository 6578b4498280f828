// The implementations of gdn_prefill on CUDA.
#include "src/cuda/kernels.h"
#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {

core::DeviceKernels<ops::GdnPrefillParams> gdn_prefill_kernels() {
  const auto run = [](const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
    return run_recurrence("gdn_prefill", recurrence_params(p), launch);
  };
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
