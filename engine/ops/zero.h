// Zeros in a tensor.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// All bytes of a dense tensor become 0. Can be recorded. Errors: device_error.
Status zero(Context& context, const TensorView& x);

}  // namespace hybridattn::engine
