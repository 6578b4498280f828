// The implementations of gdn_verify on CUDA.
#include "src/cuda/kernels.h"
#include "src/cuda/smxx/gdn_recurrence.cuh"

namespace hybridattn::cuda {

core::DeviceKernels<ops::GdnVerifyParams> gdn_verify_kernels() {
  const auto run = [](const ops::GdnVerifyParams& p, const core::DeviceLaunch& launch) {
    return run_recurrence("gdn_verify", recurrence_params(p), launch);
  };
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
