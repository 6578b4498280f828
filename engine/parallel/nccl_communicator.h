// Ranks on GPUs of one machine, over NCCL.
#pragma once

#include <memory>
#include <span>

#include "engine/parallel/communicator.h"
#include "engine/parallel/nccl_library.h"

namespace hybridattn::engine {

/// One rank for each CUDA device, in their order. `nccl` is borrowed. Graphs that were
/// captured with calls in them must be gone before the group is, or it waits for their end. After
/// `abort` it cannot be restored. Errors: device_error.
Result<std::unique_ptr<CommunicatorGroup>> make_nccl_communicators(const NcclLibrary& nccl,
                                                                   std::span<const int> devices);

}  // namespace hybridattn::engine
