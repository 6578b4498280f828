// What a gdn_step kernel takes.
#pragma once

#include "src/ops/gdn_params.h"

namespace hybridattn::ops {

struct GdnStepParams : GdnParams {};

}  // namespace hybridattn::ops
