// The implementations of gdn_step on CUDA.
#include "src/cuda/kernels.h"
#include "src/cuda/smxx/gdn_step_rows.cuh"

namespace hybridattn::cuda {

core::DeviceKernels<ops::GdnStepParams> gdn_step_kernels() {
  const auto run = [](const ops::GdnStepParams& p, const core::DeviceLaunch& launch) {
    const RecurrenceParams params = recurrence_params(p);
    if (step_rows_refusal(p) == nullptr) return run_step_rows(params, launch);
    return run_recurrence("gdn_step", params, launch);
  };
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
