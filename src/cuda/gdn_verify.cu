// The implementations of gdn_verify on CUDA.
#include "src/cuda/kernels.h"
#include "src/cuda/smxx/gdn_step_rows.cuh"

namespace hybridattn::cuda {

core::DeviceKernels<ops::GdnVerifyParams> gdn_verify_kernels() {
  const auto run = [](const ops::GdnVerifyParams& p, const core::DeviceLaunch& launch) {
    // The kernel that takes decode rows, or drafts would not give their bits.
    if (step_rows_refusal(p.gdn) == nullptr && rows_aligned(p.kept)) {
      return run_verify_rows(recurrence_params(p), launch);
    }
    return run_recurrence("gdn_verify", recurrence_params(p), launch);
  };
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
