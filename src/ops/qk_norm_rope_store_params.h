// What a qk_norm_rope_store kernel takes. Strides inside the views count elements. A view without
// data is not given.
#pragma once

#include "hybridattn/ops/qk_norm_rope_store.h"
#include "src/core/head_scales.h"

namespace hybridattn::ops {

struct QkNormRopeStoreParams {
  ConstTensorView q;                // [tokens, heads, dim]
  ConstTensorView k;                // optional [tokens, kv_heads, dim]
  ConstTensorView v;                // [tokens, kv_heads, v_dim], given with the caches
  ConstTensorView q_norm;           // optional [dim]
  ConstTensorView k_norm;           // optional [dim]
  ConstTensorView cos;              // optional [tokens, rotary_dim / 2] f32
  ConstTensorView sin;              // given with cos
  TensorView q_out;                 // [tokens, heads, dim]
  TensorView k_out;                 // optional [tokens, kv_heads, dim]
  const std::int64_t* token_slots;  // [tokens], -1 = skip; given with the caches
  TensorView k_cache;               // optional [pages, page_size, kv_heads, dim]
  TensorView v_cache;               // [pages, page_size, kv_heads, v_dim], given with k_cache
  float epsilon;
  bool zero_centered;
  core::HeadScales k_scale;  // stored is k / k_scale
  core::HeadScales v_scale;

  std::int64_t kv_heads() const noexcept { return k.rank == 0 ? 0 : k.dim(1); }
  std::int64_t v_dim() const noexcept { return v.rank == 0 ? 0 : v.dim(2); }
  std::int64_t half() const noexcept { return cos.rank == 0 ? 0 : cos.dim(1); }
};

}  // namespace hybridattn::ops
