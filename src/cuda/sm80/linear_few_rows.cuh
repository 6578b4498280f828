// Products of few rows: each weight is read once, at the speed of memory.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

/// The most rows that these kernels take.
inline constexpr std::int64_t kLinearFewRows = 16;

/// Why they cannot serve a call, or nullptr.
const char* refusal_linear_few_rows(const ops::LinearParams& params);
/// nullptr where no norm is handed on, which most kernels do not do.
inline const char* refusal_linear_handed_on(const ops::LinearParams& p) {
  return p.next_norm.empty() && p.x_squares.empty()
             ? nullptr
             : "norms are handed on by kernels of up to 32 rows, or of 128 and no large matrices, "
               "of weights in bf16 on devices of compute capability 9";
}
/// What of it is not about the number of rows: types, strides, a norm.
const char* refusal_linear_halves(const ops::LinearParams& params);
Status run_linear_few_rows(const ops::LinearParams& params, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
