// Ranks on GPUs of one machine, over NCCL.
#pragma once

#include <memory>
#include <span>

#include "engine/parallel/communicator.h"

namespace hybridattn::engine {

/// One rank for each CUDA device, in their order. NCCL is looked for at run time. Graphs that were
/// captured with calls in them must be gone before the group is, or it waits for their end. After
/// `abort` it cannot be restored. Errors: unsupported where NCCL or a call of it is not found;
/// device_error.
Result<std::unique_ptr<CommunicatorGroup>> make_nccl_communicators(std::span<const int> devices);

}  // namespace hybridattn::engine
