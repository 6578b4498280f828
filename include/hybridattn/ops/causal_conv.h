// Depthwise causal convolution with a rolling state, then SiLU.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/row_checkpoints.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// T tokens of the stream, C channels, W taps (2 to 4).
struct CausalConvArgs {
  RaggedRows rows;
  ConstTensorView x{};       ///< [T, C] f32, bf16 or f16; any token stride
  ConstTensorView weight{};  ///< [C, W] f32, bf16 or f16; weight[:, W-1] meets the current token
  TensorView state{};        ///< [slots, C, W-1] f32, bf16 or f16: the last inputs, oldest first
  TensorView out{};          ///< [T, C] f32, bf16 or f16; may not overlap x
  bool silu = true;          ///< apply x * sigmoid(x) after the sum
  /// Of causal_conv: states to be stored on the way, in slots of `state`.
  RowCheckpoints checkpoints{};
};

/// out[t, c] = silu(sum_w weight[c, w] * in[t - (W-1) + w, c]), where `in` continues the row's
/// state to the left (zeros where computed = 0). The state becomes the last W-1 inputs. Prefill and
/// single-token update are the same call: an update is a row of length 1. A checkpoint is the state
/// that a row ending there would have left.
/// Source: Gated DeltaNet's short convolution (Yang et al. 2024), no bias.
/// Errors: invalid_argument, out_of_range (slot or token outside its tensor), unsupported (W,
/// dtype). Nothing is written on an error.
HYBRIDATTN_API Status causal_conv(Context& context, const CausalConvArgs& args);

}  // namespace hybridattn
