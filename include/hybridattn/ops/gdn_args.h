// The arguments that the two forms of the gated delta rule share.
#pragma once

#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/row_checkpoints.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// T tokens, HK key heads, HV value heads (a multiple of HK; value head h reads key head h /
/// (HV/HK)), head dims K and V (16 to 256 in steps of 16, K and V may differ).
struct GdnArgs {
  RaggedRows rows;
  ConstTensorView q{};  ///< [T, HK, K] f32, bf16 or f16; any token and head stride
  ConstTensorView k{};  ///< [T, HK, K]
  ConstTensorView v{};  ///< [T, HV, V]
  /// [T, HV] f32, or [T, HV, K] where each key channel has a decay of its own (Kimi Delta
  /// Attention); in [-1e4, 0]: values outside are clamped, NaN is -1e4
  ConstTensorView log_decay{};
  ConstTensorView beta{};  ///< [T, HV] f32
  TensorView state{};      ///< [slots, HV, V, K] f32, or bf16 at rest; any slot, head, V stride
  TensorView out{};        ///< [T, HV, V]; may not overlap an input
  float scale = 0.0f;      ///< on q, required: usually K^-1/2
  bool qk_l2norm = true;   ///< normalise q and k first, as the op `l2norm` does
  /// Of gdn_prefill: states to be stored on the way, in slots of `state`.
  RowCheckpoints checkpoints{};
};

}  // namespace hybridattn
