// The untyped half of a launch on the accelerator: scratch, counters, what ran last.
#include "src/core/context_impl.h"
#include "src/core/kernel.h"

namespace hybridattn {

Status Context::Impl::reserve_counters(std::size_t count) {
  if (count <= num_counters) return {};
  const std::size_t wanted = core::round_to_alignment(count * sizeof(*counters));
  HYBRIDATTN_TRY(accelerator->synchronize("workspace"));
  auto* grown = static_cast<std::uint32_t*>(allocator->allocate(wanted));
  if (grown == nullptr) {
    return error(StatusCode::kResourceExhausted, "workspace: the allocator gave no ", wanted,
                 " bytes");
  }
  if (counters != nullptr) allocator->deallocate(counters, num_counters * sizeof(*counters));
  counters = grown;
  num_counters = wanted / sizeof(*counters);
  return accelerator->zero(counters, wanted);
}

namespace core {

OpenDevice open_cuda = nullptr;

Result<DeviceLaunch> begin_device_launch(Context& context, const DeviceNeeds& needs) {
  Context::Impl& impl = context.impl();
  HYBRIDATTN_TRY(impl.reserve(0, needs.scratch_bytes));
  if (!impl.captured) impl.captured = impl.accelerator->capturing();
  HYBRIDATTN_TRY(impl.reserve_counters(needs.counters));
  return DeviceLaunch{impl.accelerator->stream(), &impl.accelerator->info(), impl.workers,
                      impl.counters};
}

Status end_device_launch(Context& context, const char* op, const char* family) {
  Context::Impl& impl = context.impl();
  impl.last_target = family;
  impl.last_op = op;
  return impl.synchronous && impl.recorder == nullptr ? impl.accelerator->synchronize(op)
                                                      : Status();
}

const char* forced_family(Context& context) noexcept {
  const std::string& family = context.impl().kernel_family;
  return family.empty() ? nullptr : family.c_str();
}

Device& device_of(Context& context) noexcept { return *context.impl().accelerator; }

const DeviceInfo& device_info(Context& context) noexcept {
  return context.impl().accelerator->info();
}

Status no_device_kernel(const char* op, const char* family, const char* refusal) {
  if (family == nullptr) return error(StatusCode::kUnsupported, op, ": ", refusal);
  return error(StatusCode::kUnsupported, op, ": kernel_family ", family, " is forced; ", refusal);
}

}  // namespace core
}  // namespace hybridattn
