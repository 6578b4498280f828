// UploadScope: small arrays on their way to a device as one.
#pragma once

#include "hybridattn/context.h"

namespace hybridattn {

/// While it lives, Context::upload and the plans and replans of backends on this context keep small
/// arrays back; they go together with `send`, or before whatever the context orders next. Scopes
/// may stand within one another: the outermost counts. Do not begin a capture of your own within
/// one. On the CPU nothing is kept back. `context` is borrowed.
class HYBRIDATTN_API UploadScope {
 public:
  explicit UploadScope(Context& context) noexcept;
  /// Sends. What fails then is said by what the context orders next.
  ~UploadScope();
  UploadScope(const UploadScope&) = delete;
  UploadScope& operator=(const UploadScope&) = delete;

  /// Ends the scope. Errors: device_error.
  Status send();

 private:
  Context& context_;
  bool ended_ = false;
};

}  // namespace hybridattn
