// How an op finds and starts its kernel: a table of implementations for each parameter struct.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string_view>
#include <type_traits>

#include "hybridattn/status_macros.h"
#include "hybridattn/trace.h"
#include "src/core/device.h"

namespace hybridattn::core {

/// What a CPU kernel gets besides its parameters.
struct Launch {
  Executor& executor;
  /// What the context chose: code for one target may serve several instruction sets.
  Isa isa;
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

/// What a CUDA kernel gets besides its parameters.
struct DeviceLaunch {
  void* stream;  // cudaStream_t
  const DeviceInfo* info;
  std::byte* scratch;       // as many bytes as it asked for, aligned to 64, whatever they hold
  std::uint32_t* counters;  // as many as it asked for, zeros, which it leaves as zeros
};

/// What a CUDA kernel asks for.
struct DeviceNeeds {
  std::size_t scratch_bytes = 0;
  std::size_t counters = 0;
};

/// One implementation of an op on CUDA.
template <class Params>
struct DeviceKernel {
  /// "sm90", "sm90_fused" (several kernels of "sm90" in one), "sm80" (and newer), or "smxx": plain
  /// CUDA C++ for all. Products have other names, which no option forces.
  const char* family = nullptr;
  /// Why it cannot serve a call, nullptr when it can. No function: it serves every call.
  const char* (*refusal)(const Params&, const DeviceInfo&) = nullptr;
  DeviceNeeds (*needs)(const Params&, const DeviceInfo&) = nullptr;
  /// Orders the kernel on the stream and returns. Allocates nothing.
  Status (*run)(const Params&, const DeviceLaunch&) = nullptr;
  /// Whether it is faster than those behind it, which is not asked where it is forced. No function:
  /// it always is.
  bool (*faster)(const Params&, const DeviceInfo&) = nullptr;
};
/// The first that serves a call and is faster is taken.
template <class Params>
using DeviceKernels = std::array<DeviceKernel<Params>, 5>;

/// The table entry of one op. Filled once by register.cc, read ever after.
template <class Params>
struct KernelEntry {
  CpuVariants<Params> cpu{};
  DeviceKernels<Params> cuda{};
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

/// The untyped half of a launch on the accelerator.
Result<DeviceLaunch> begin_device_launch(Context& context, const DeviceNeeds& needs);
/// Notes the kernel that ran; waits for it where the context is synchronous.
Status end_device_launch(Context& context, const char* op, const char* family);
/// The family that the context's options force, or nullptr.
const char* forced_family(Context& context) noexcept;
const DeviceInfo& device_info(Context& context) noexcept;
Device& device_of(Context& context) noexcept;
/// `family`: the one that was asked for, or nullptr.
Status no_device_kernel(const char* op, const char* family, const char* refusal);

/// The implementation that serves a call, or why there is none.
template <class Params>
struct DeviceChoice {
  const DeviceKernel<Params>* kernel = nullptr;
  const char* family = nullptr;   // forced, or nullptr
  const char* refusal = nullptr;  // of the last one that was asked
};

template <class Params>
DeviceChoice<Params> choose_device_kernel(Context& context, const Params& params) {
  const DeviceKernels<Params>& kernels = kernel_entry<Params>.cuda;
  const bool several = kernels[0].run != nullptr && kernels[1].run != nullptr;
  DeviceChoice<Params> choice;
  if (several && std::string_view(kernels[0].family).starts_with("sm")) {
    choice.family = forced_family(context);
  }
  choice.refusal = "this build has no kernel for it on cuda";
  for (const DeviceKernel<Params>& kernel : kernels) {
    if (kernel.run == nullptr) break;
    if (choice.family != nullptr && std::string_view(choice.family) != kernel.family) continue;
    const char* why =
        kernel.refusal == nullptr ? nullptr : kernel.refusal(params, device_info(context));
    if (why != nullptr) {
      choice.refusal = why;
      continue;
    }
    if (choice.family == nullptr && kernel.faster != nullptr &&
        !kernel.faster(params, device_info(context))) {
      continue;
    }
    choice.kernel = &kernel;
    break;
  }
  return choice;
}

/// Grows the workspace now to what a call would ask for. Nothing where no kernel serves it, which
/// the call will say.
template <class Params>
Status reserve_for_device_kernel(Context& context, const Params& params) {
  const DeviceChoice<Params> choice = choose_device_kernel(context, params);
  if (choice.kernel == nullptr || choice.kernel->needs == nullptr) return {};
  return begin_device_launch(context, choice.kernel->needs(params, device_info(context))).status();
}

template <class Params>
Status launch_device_kernel(Context& context, const char* op, const DeviceKernel<Params>& kernel,
                            const Params& params) {
  const DeviceNeeds needs =
      kernel.needs == nullptr ? DeviceNeeds{} : kernel.needs(params, device_info(context));
  HYBRIDATTN_ASSIGN(const DeviceLaunch launch, begin_device_launch(context, needs));
  const DeviceScope scope(device_of(context));
  HYBRIDATTN_TRY(kernel.run(params, launch));
  return end_device_launch(context, op, kernel.family);
}

template <class Params>
Status launch_on_device(Context& context, const char* op, const Params& params) {
  const DeviceChoice<Params> choice = choose_device_kernel(context, params);
  if (choice.kernel == nullptr) return no_device_kernel(op, choice.family, choice.refusal);
  return launch_device_kernel(context, op, *choice.kernel, params);
}

template <class Params>
Status launch(Context& context, const char* op, const Params& params, std::size_t worker_bytes) {
  static_assert(std::is_trivially_copyable_v<Params>, "a kernel's parameters are one plain struct");
  if (context.device() == DeviceType::kCuda) return launch_on_device(context, op, params);
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
