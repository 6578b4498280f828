// L2 normalisation of query and key heads.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// The epsilon of every l2norm of the library: inside the root, added to the sum of squares.
inline constexpr float kL2NormEpsilon = 1e-6f;

struct L2NormArgs {
  ConstTensorView x{};  ///< [T, H, D] f32, bf16 or f16
  TensorView out{};     ///< [T, H, D]; may be x itself
  float scale = 1.0f;   ///< multiplies the normalised value (K^-1/2 for queries)
};

/// out = scale * x * rsqrt(sum(x^2) + 1e-6) over D, in float32.
/// Source: flash-linear-attention's l2norm. Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status l2norm(Context& context, const L2NormArgs& args);

}  // namespace hybridattn
