#include "hybridattn/upload_scope.h"

#include "src/core/context_impl.h"

namespace hybridattn {

UploadScope::UploadScope(Context& context) noexcept : context_(context) {
  if (core::Device* const device = context.impl().accelerator.get()) device->hold_uploads();
}

UploadScope::~UploadScope() {
  core::Device* const device = context_.impl().accelerator.get();
  if (!ended_ && device != nullptr) device->send_uploads_unheard();
}

Status UploadScope::send() {
  core::Device* const device = context_.impl().accelerator.get();
  if (ended_ || device == nullptr) return {};
  ended_ = true;
  return device->send_uploads();
}

}  // namespace hybridattn
