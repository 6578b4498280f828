// What a store_kv kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/store_kv.h"
#include "src/core/head_scales.h"

namespace hybridattn::ops {

struct StoreKvParams {
  ConstTensorView k;                // [tokens, heads, dim]
  ConstTensorView v;                // [tokens, heads, v_dim]
  const std::int64_t* token_slots;  // [tokens], -1 = skip
  TensorView k_cache;               // [pages, page_size, heads, dim]
  TensorView v_cache;               // [pages, page_size, heads, v_dim]
  core::HeadScales k_scale;         // stored is k / k_scale
  core::HeadScales v_scale;
};

}  // namespace hybridattn::ops
