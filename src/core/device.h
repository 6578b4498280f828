// A context's accelerator, as the layers above its kernels see it: the device table's one entry for
// each context. register.cc says how one is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "hybridattn/context.h"

namespace hybridattn::core {

struct DeviceInfo {
  int index = 0;
  int compute_major = 0;  ///< compute capability, e.g. 9.0
  int compute_minor = 0;
  int num_sms = 0;                   ///< multiprocessors
  std::size_t max_shared_bytes = 0;  ///< shared memory that one block may ask for
};

/// Work that was captured from a stream, to be ordered again as one.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  /// Orders all of it on the stream that it was captured from.
  virtual Status launch() = 0;
  /// Kernels, copies and the like in it.
  virtual std::size_t num_nodes() const noexcept = 0;
};

/// A point of a device's stream.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  /// Makes it the point behind all that was ordered so far.
  virtual Status mark() = 0;
  /// Returns once the stream has passed the point, at once where none was marked.
  virtual Status wait() = 0;
};

/// All calls but synchronize are ordered by the device's stream and return at once.
class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceInfo& info() const noexcept = 0;
  /// The stream that everything runs on, a cudaStream_t, for what is ordered next.
  virtual void* stream() noexcept = 0;
  /// Makes the device that of the calling thread, which may serve several. Returns what was, for
  /// `leave`, or -1 where nothing changed.
  virtual int enter() noexcept = 0;
  virtual void leave(int before) noexcept = 0;
  /// Memory of the device.
  virtual Allocator& memory() noexcept = 0;
  /// Memory of the host that copies may read while the host goes on.
  virtual Allocator& pinned() noexcept = 0;

  /// Copies between any two of: device memory, pinned and other host memory.
  virtual Status copy(void* to, const void* from, std::size_t bytes) = 0;
  /// Copies from pinned memory to the device.
  virtual Status upload(void* to, const void* pinned, std::size_t bytes) = 0;
  /// Until as many send_uploads, uploads may wait for others, to go with them. Whatever else is
  /// ordered, events and what takes the stream among it, comes behind all that wait.
  virtual void hold_uploads() noexcept = 0;
  virtual Status send_uploads() = 0;
  /// The same; an error comes with what is ordered next.
  virtual void send_uploads_unheard() noexcept = 0;
  virtual Status zero(void* data, std::size_t bytes) = 0;
  /// Waits for all that was ordered before. Errors: device_error, naming `after`, the last op.
  virtual Status synchronize(std::string_view after) = 0;
  /// An event of the stream, which must not outlive the device.
  virtual Result<std::unique_ptr<DeviceEvent>> make_event() = 0;
  /// Whether work ordered now becomes part of a graph that somebody captures on the stream.
  virtual bool capturing() const noexcept = 0;
  /// From here on work is kept, not started, until end_capture. Meanwhile the calling thread may
  /// neither allocate nor wait: such calls fail, and with them the capture.
  virtual Status begin_capture() = 0;
  /// Ends the capture, whether it failed or not. Errors: device_error; nothing is captured then.
  virtual Result<std::unique_ptr<DeviceGraph>> end_capture() = 0;
};

/// A device is the calling thread's for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(Device& device) : device_(device), before_(device.enter()) {}
  ~DeviceScope() { device_.leave(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  Device& device_;
  int before_;
};

/// Opens a device. `stream` is the caller's, or nullptr for one of the context's own. Errors:
/// unsupported when there is no such device or driver; device_error.
using OpenDevice = Result<std::unique_ptr<Device>> (*)(int index, void* stream);
/// nullptr in a build without CUDA.
extern OpenDevice open_cuda;

}  // namespace hybridattn::core
