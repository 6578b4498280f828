// The two gates of Gated DeltaNet: log decay and write strength.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct GdnGatesArgs {
  ConstTensorView a{};            ///< [T, HV] or [T, HV, K] f32, bf16 or f16
  ConstTensorView b{};            ///< [T, HV] f32, bf16 or f16
  ConstTensorView a_log{};        ///< [HV] f32, bf16 or f16
  ConstTensorView dt_bias{};      ///< [HV], or [HV, K] with such an a; f32, bf16 or f16
  TensorView log_decay{};         ///< as a, f32: g
  TensorView beta{};              ///< [T, HV] f32
  bool allow_neg_eigval = false;  ///< beta = 2 * sigmoid(b)
};

/// g = -exp(A_log) * softplus(a + dt_bias), for each head or for each of its key channels; beta =
/// sigmoid(b), in float32 or better. softplus(x) is x above 20. exp(A_log) is cut at the largest
/// finite float and g to [-1e4, 0], so that no finite input makes a NaN. Source: Gated DeltaNet,
/// eq. for alpha_t; the threshold is torch's. Errors: invalid_argument, unsupported. Nothing is
/// written on an error.
HYBRIDATTN_API Status gdn_gates(Context& context, const GdnGatesArgs& args);

}  // namespace hybridattn
