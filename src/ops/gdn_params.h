// What both kernels of the gated delta rule take. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/gdn_args.h"

namespace hybridattn::ops {

struct GdnParams {
  RaggedRows rows;
  ConstTensorView q;          // [tokens, k_heads, k_dim]
  ConstTensorView k;          // [tokens, k_heads, k_dim]
  ConstTensorView v;          // [tokens, v_heads, v_dim]
  ConstTensorView log_decay;  // [tokens, v_heads] or [tokens, v_heads, k_dim] f32
  ConstTensorView beta;       // [tokens, v_heads] f32
  TensorView state;           // [slots, v_heads, v_dim, k_dim] f32 or bf16
  TensorView out;             // [tokens, v_heads, v_dim]
  float scale;
  bool qk_l2norm;
  std::int64_t group;  // value heads of one key head

  bool channel_decay() const noexcept { return log_decay.rank == 3; }
};

}  // namespace hybridattn::ops
