// Counts what a thread takes from the heap by operator new. Linking this file replaces that
// operator in the whole test program.
#pragma once

#include <cstdint>

namespace hybridattn::testing {

/// Calls of operator new by this thread so far.
std::int64_t heap_allocations() noexcept;

}  // namespace hybridattn::testing
