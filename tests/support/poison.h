// Poison: NaN in all that a call must not read. Buffers are born poisoned; this does the workspace.
#pragma once

#include <cstring>

#include "src/core/context_impl.h"

namespace hybridattn::testing {

/// Fills the workspace of a context with NaN.
inline void poison_workspace(Context& context) {
  Context::Impl& impl = context.impl();
  const auto workers = static_cast<std::size_t>(context.executor().concurrency());
  if (impl.shared != nullptr) std::memset(impl.shared, 0xff, impl.shared_bytes);
  if (impl.workers != nullptr) std::memset(impl.workers, 0xff, impl.worker_bytes * workers);
}

}  // namespace hybridattn::testing
