// Opens a CUDA device for a context.
#pragma once

#include "src/core/device.h"

namespace hybridattn::cuda {

/// See core::OpenDevice.
Result<std::unique_ptr<core::Device>> open_device(int index, void* stream);

}  // namespace hybridattn::cuda
