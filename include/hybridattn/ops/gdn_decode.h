// A whole Gated DeltaNet layer for rows of one token, from the projections to the output
// projection.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/ops/gated_rms_norm.h"
#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// T tokens, HK key heads of K channels, HV value heads of V channels (HV a multiple of HK), C =
/// 2 HK K + HV V channels of the convolution: q, then k, then v. W taps.
struct GdnDecodeArgs {
  RaggedRows rows;                ///< of length 0 or 1
  std::int32_t num_k_heads = 0;   ///< HK
  ConstTensorView mixed_qkv{};    ///< [T, C] f32, bf16 or f16; any token stride
  ConstTensorView conv_weight{};  ///< [C, W]
  TensorView conv_state{};        ///< [slots, C, W-1]
  ConstTensorView a{};            ///< [T, HV], or [T, HV, K] for a decay of each key channel
  ConstTensorView b{};            ///< [T, HV]
  ConstTensorView a_log{};        ///< [HV]
  ConstTensorView dt_bias{};      ///< [HV], or [HV, K] with such an a
  TensorView state{};             ///< [slots, HV, V, K] f32, or bf16 at rest
  ConstTensorView z{};            ///< optional [T, HV, V]: the output gate
  ConstTensorView norm_weight{};  ///< [V], given with z
  TensorView out{};               ///< [T, HV, V]; may not overlap an input
  float norm_epsilon = 1e-6f;
  GateKind gate = GateKind::kSilu;
  bool allow_neg_eigval = false;
};

/// causal_conv, gdn_gates, gdn_step with l2norm and scale K^-1/2, and, where z is given,
/// gated_rms_norm, with float32 between them; the states are updated in place. One kernel where the
/// device has it for these shapes, else those ops one after the other: the same result within the
/// bound. Errors: as theirs; nothing is written on an error.
HYBRIDATTN_API Status gdn_decode(Context& context, const GdnDecodeArgs& args);

}  // namespace hybridattn
