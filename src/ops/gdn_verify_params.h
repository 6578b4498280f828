// What a gdn_verify kernel takes.
#pragma once

#include "hybridattn/ops/verify_rows.h"
#include "src/ops/gdn_params.h"

namespace hybridattn::ops {

struct GdnVerifyParams {
  GdnParams gdn;
  VerifyRows verify;
  TensorView kept;  // [kept slots, v_heads, v_dim, k_dim]
};

}  // namespace hybridattn::ops
