// CUDA's errors as Status.
#pragma once

#include <string_view>

#include <cuda_runtime_api.h>

#include "hybridattn/status.h"

namespace hybridattn::cuda {

/// Success, or device_error with the call's name and CUDA's own words.
inline Status check(cudaError_t code, std::string_view what) {
  if (code == cudaSuccess) return {};
  return error(StatusCode::kDeviceError, what, ": ", cudaGetErrorName(code), ", ",
               cudaGetErrorString(code));
}

/// What the launch before it reports. The error of an earlier kernel comes up here too, so the
/// message says no more than that it came up.
inline Status check_launch(std::string_view what) { return check(cudaGetLastError(), what); }

}  // namespace hybridattn::cuda
