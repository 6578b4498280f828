// Softmax attention in plain CUDA C++.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/attention_params.h"

namespace hybridattn::cuda {

Status run_attention_rows(const ops::AttentionParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
