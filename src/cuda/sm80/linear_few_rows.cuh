// Products of few rows: each weight is read once, at the speed of memory.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

/// The most rows that these kernels take.
inline constexpr std::int64_t kLinearFewRows = 16;

/// Why they cannot serve a call, or nullptr.
const char* refusal_linear_few_rows(const ops::LinearParams& params);
/// What of it is not about the number of rows: types, strides, a norm.
const char* refusal_linear_halves(const ops::LinearParams& params);
Status run_linear_few_rows(const ops::LinearParams& params, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
