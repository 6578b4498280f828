// How an op finds and starts its kernel: a table of implementations for each parameter struct.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <type_traits>

#include "hybridattn/context.h"
#include "hybridattn/trace.h"

namespace hybridattn::core {

/// What a CPU kernel gets besides its parameters.
struct Launch {
  Executor& executor;
  /// Private scratch of each worker: `worker_bytes` bytes at `worker_scratch + worker *
  /// worker_bytes`.
  std::byte* worker_scratch;
  std::size_t worker_bytes;
  /// Written by the kernel: the name of the target that its code was compiled for.
  const char* target = "";

  template <class T>
  T* scratch(int worker) const noexcept {
    return reinterpret_cast<T*>(worker_scratch + static_cast<std::size_t>(worker) * worker_bytes);
  }
};

/// A kernel: reads its parameters, uses the executor, allocates nothing, cannot fail. Whatever
/// could go wrong was checked by the op before.
template <class Params>
using CpuKernel = void (*)(const Params&, Launch&);

/// One compiled form of a kernel for each instruction set; nullptr where this build has none.
template <class Params>
using CpuVariants = std::array<CpuKernel<Params>, kIsaCount>;

/// The table entry of one op. Filled once by register.cc, read ever after.
template <class Params>
struct KernelEntry {
  CpuVariants<Params> cpu{};
};
template <class Params>
inline KernelEntry<Params> kernel_entry;

/// Starts the kernel of `Params` on the context's device, or keeps the call for the graph that is
/// being recorded. `worker_bytes` is the scratch that each worker needs. Errors: unsupported when
/// the op has no kernel there; resource_exhausted when the workspace had to grow and could not.
template <class Params>
Status launch(Context& context, const char* op, const Params& params, std::size_t worker_bytes = 0);

/// Whether a graph is being recorded on the context, and a call for that graph.
bool recording(Context& context) noexcept;
void record_launch(Context& context, const char* op, std::function<void(Launch&)> call,
                   std::size_t worker_bytes);

/// The untyped half of `launch`: reserves the scratch and makes the Launch.
Result<Launch> begin_launch(Context& context, std::size_t worker_bytes);
void end_launch(Context& context, const Launch& launch) noexcept;

template <class Params>
Status launch(Context& context, const char* op, const Params& params, std::size_t worker_bytes) {
  static_assert(std::is_trivially_copyable_v<Params>, "a kernel's parameters are one plain struct");
  const CpuKernel<Params> kernel =
      kernel_entry<Params>.cpu[static_cast<std::size_t>(context.isa())];
  if (kernel == nullptr) {
    return error(StatusCode::kUnsupported, op, ": this build has no kernel for instruction set ",
                 isa_name(context.isa()));
  }
  if (recording(context)) {
    record_launch(
        context, op, [kernel, params](Launch& launch) { kernel(params, launch); }, worker_bytes);
    return {};
  }
  Result<Launch> begun = begin_launch(context, worker_bytes);
  if (!begun.ok()) return begun.status();
  const TraceSpan span(context, op);
  kernel(params, *begun);
  end_launch(context, *begun);
  return {};
}

}  // namespace hybridattn::core
