// What a copy_kv kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/copy_kv.h"

namespace hybridattn::ops {

struct CopyKvParams {
  TensorView k_cache;               // [pages, page_size, heads, dim]
  TensorView v_cache;               // [pages, page_size, heads, v_dim]
  const std::int64_t* source;       // [count]
  const std::int64_t* destination;  // [count], -1 = skip
  std::int64_t count;
};

}  // namespace hybridattn::ops
