// Products of any types and strides, in float32.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/linear_params.h"

namespace hybridattn::cuda {

Status run_linear_tiles(const ops::LinearParams& params, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
