#include "hybridattn/fence.h"

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"

namespace hybridattn {

struct Fence::Impl {
  std::unique_ptr<core::DeviceEvent> event;  // nullptr on the CPU
};

Fence::Fence(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Fence::~Fence() = default;

Result<std::unique_ptr<Fence>> Fence::create(Context& context) {
  auto impl = std::make_unique<Impl>();
  if (core::Device* const device = context.impl().accelerator.get(); device != nullptr) {
    HYBRIDATTN_ASSIGN(impl->event, device->make_event());
  }
  return std::unique_ptr<Fence>(new Fence(std::move(impl)));
}

Status Fence::set() { return impl_->event == nullptr ? Status() : impl_->event->mark(); }
Status Fence::wait() { return impl_->event == nullptr ? Status() : impl_->event->wait(); }

}  // namespace hybridattn
