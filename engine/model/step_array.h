// StepArray: a small array of a step that the host fills and kernels read, at an address that
// stays.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "hybridattn/context.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {

/// On the CPU both sides are the same memory. Owns it; `context` is borrowed.
template <class T>
class StepArray {
 public:
  explicit StepArray(Context& context) : context_(context) {}
  ~StepArray() { release(); }
  StepArray(const StepArray&) = delete;
  StepArray& operator=(const StepArray&) = delete;

  /// Room for `count`, zeros at first; what was there is gone where it grows. Errors:
  /// resource_exhausted, device_error; the old room stays then.
  Status reserve(std::size_t count) {
    if (count <= host_.size()) return {};
    if (context_.device() == DeviceType::kCuda) {
      auto* grown = static_cast<T*>(context_.allocator().allocate(count * sizeof(T)));
      if (grown == nullptr) {
        return error(StatusCode::kResourceExhausted, "a step's inputs: the allocator gave no ",
                     count * sizeof(T), " bytes");
      }
      release();
      device_ = grown;
    }
    host_.assign(count, T{});
    return upload(count);
  }
  std::size_t size() const { return host_.size(); }
  /// What the host reads and writes.
  std::span<T> host() { return host_; }
  std::span<const T> host() const { return host_; }
  /// What kernels read and write.
  T* device() { return device_ != nullptr ? device_ : host_.data(); }
  /// The first `count` from the host to the device, in the order of the stream. What the host
  /// writes afterwards is the next step's.
  Status upload(std::size_t count) {
    if (device_ == nullptr || count == 0) return {};
    return context_.upload(device_, host_.data(), count * sizeof(T));
  }

 private:
  void release() {
    if (device_ == nullptr) return;
    (void)context_.synchronize();  // an upload may still be on its way
    context_.allocator().deallocate(device_, host_.size() * sizeof(T));
    device_ = nullptr;
  }

  Context& context_;
  std::vector<T> host_;
  T* device_ = nullptr;
};

}  // namespace hybridattn::engine
