// Ranks that are threads of one process on the CPU.
#pragma once

#include <memory>

#include "engine/parallel/communicator.h"

namespace hybridattn::engine {

/// Sums are formed in the order of the ranks, whatever the order in which they come: results do not
/// depend on timing. A call returns when all ranks have made it. `size` >= 1.
std::unique_ptr<CommunicatorGroup> make_thread_communicators(std::int32_t size);

}  // namespace hybridattn::engine
