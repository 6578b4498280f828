// Tensor maps for the copy engine of sm_90.
#pragma once

#include <cuda.h>

#include "hybridattn/status.h"
#include "src/cuda/element.cuh"

namespace hybridattn::cuda {

/// Boxes of 64 channels of one head of 64 tokens of `x` [tokens, heads, channels], in 128-byte
/// swizzle; zeros past the last token. `x` must be of 16-bit elements, its strides and address
/// multiples of 16 bytes.
Status encode_token_boxes(const View& x, std::int64_t tokens, int heads, int channels,
                          CUtensorMap* map);

}  // namespace hybridattn::cuda
