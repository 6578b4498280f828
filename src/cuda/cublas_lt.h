// Products through cuBLASLt, whose library is looked for at the first one: those who multiply
// elsewhere need not have it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hybridattn/dtype.h"
#include "hybridattn/status.h"
#include "src/core/kernel.h"

namespace hybridattn::cuda {

/// out [m, n] = x [m, k] W^T, or out +=. Rows are dense, strides count elements.
struct LtProduct {
  DType in, out_type;
  std::int64_t m, n, k;
  const void* x;
  const void* weight;
  void* out;
  std::int64_t x_stride, weight_stride, out_stride;
  bool accumulate;
  bool batch_invariant;  ///< one algorithm for every m, which does not split k
};

/// Why it cannot be used, or nullptr.
const char* refusal_cublas_lt();
/// Algorithms are picked once for each shape (m up to the next power of two) by each thread, and
/// kept. `launch` has scratch for kLinearCudaWorkspaceBytes. Errors: device_error; unsupported
/// where cuBLASLt has no algorithm.
Status multiply_cublas_lt(const LtProduct& product, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
