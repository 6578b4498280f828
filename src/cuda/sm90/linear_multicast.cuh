// Products of some dozens of rows, whose blocks share x.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

/// The most rows that these kernels take.
inline constexpr std::int64_t kLinearMulticastRows = 128;

/// Of larger matrices of more inner elements cuBLASLt reads x less often.
inline constexpr std::int64_t kLinearMulticastBytes = 18'000'000;
inline constexpr std::int64_t kLinearMulticastInner = 1536;

/// Why they cannot serve a call, or nullptr.
const char* refusal_linear_multicast(const ops::LinearParams& params, const core::DeviceInfo& info);
/// Whether they are faster than cuBLASLt where that serves too, and, where a norm is handed on, the
/// products behind it.
bool faster_linear_multicast(const ops::LinearParams& params);
/// `params` has rows of x and of weights, and no norm_weight.
Status run_linear_multicast(const ops::LinearParams& params, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
