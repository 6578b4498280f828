// Fence: a point in the order of a context's calls, to be waited for while what comes behind it
// runs.
#pragma once

#include <memory>

#include "hybridattn/context.h"

namespace hybridattn {

/// On the CPU, where calls have ended when they return, there is never anything to wait for.
class HYBRIDATTN_API Fence {
 public:
  /// `context` is borrowed and must outlive the fence. Errors: device_error.
  static Result<std::unique_ptr<Fence>> create(Context& context);
  ~Fence();
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

  /// Makes it the point behind all calls so far. Errors: device_error.
  Status set();
  /// Returns when the device has passed the point; at once where none was set. Errors:
  /// device_error.
  Status wait();

 private:
  struct Impl;
  explicit Fence(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hybridattn
