// How the engine's kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include "hybridattn/context.h"

namespace hybridattn::engine::cuda {

inline Status check(cudaError_t code, const char* op) {
  if (code == cudaSuccess) return {};
  return error(StatusCode::kDeviceError, op, ": ", cudaGetErrorName(code), ", ",
               cudaGetErrorString(code));
}

/// First in a kernel: from sm_90 on its blocks are in place when the kernel before ends, and wait
/// here for what that has written. Those of the next one may take theirs at once.
__device__ inline void begin_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Whether the code for devices of a compute capability has those two: what a device compiles for
/// itself from the code of an older one has not, and must not begin early.
constexpr bool can_begin_early(int compute_major) {
  constexpr int kFirst = 9;
  for (const int architecture : {__CUDA_ARCH_LIST__}) {
    if (compute_major >= kFirst && architecture / 100 == compute_major) return true;
  }
  return false;
}

/// Launches a kernel that starts with begin_kernel on the context's stream, whose device is that of
/// the calling thread: see ThreadDevice.
template <class... Params>
Status launch(Context& context, const char* op, void (*kernel)(Params...), dim3 grid, int threads,
              const Params&... params) {
  int device = 0, major = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess) {
    code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (code != cudaSuccess) return check(code, op);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(context.stream());
  config.attrs = &early;
  config.numAttrs = can_begin_early(major) ? 1 : 0;
  return check(cudaLaunchKernelEx(&config, kernel, params...), op);
}

}  // namespace hybridattn::engine::cuda
