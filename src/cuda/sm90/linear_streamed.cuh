// Products of few rows whose weights are on their way before the kernel in front of them ends.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

/// The most rows that these kernels take.
inline constexpr std::int64_t kLinearStreamedRows = 32;
/// Of so many weights 16, where multicast products are faster.
inline constexpr std::int64_t kLinearManyWeights = 32'768;

/// Why they cannot serve a call, or nullptr.
const char* refusal_linear_streamed(const ops::LinearParams& params, const core::DeviceInfo& info);
/// Whether they are faster than the kernels of more rows, which read x less often. The norm of what
/// they make is handed on in any case.
bool faster_linear_streamed(const ops::LinearParams& params, const core::DeviceInfo& info);
/// Whether they take the norm of a call that they serve; else x must be normed before.
bool takes_norm_streamed(const ops::LinearParams& params, const core::DeviceInfo& info);
/// `params` has rows of x and of weights.
Status run_linear_streamed(const ops::LinearParams& params, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
