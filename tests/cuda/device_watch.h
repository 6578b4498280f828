// Counts what a program asks of the CUDA runtime while it looks: memory, and waiting for the
// device.
#pragma once

namespace hybridattn::testing {

/// Calls since the watch began, of any thread. The functions are wrapped when the test program is
/// linked: see tests/CMakeLists.txt.
struct DeviceCalls {
  int allocations = 0;       ///< of device or pinned memory, and their ends
  int synchronisations = 0;  ///< of a stream, an event or the device; copies that wait
};

/// One at a time.
class DeviceWatch {
 public:
  DeviceWatch();
  ~DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  DeviceWatch& operator=(const DeviceWatch&) = delete;

  DeviceCalls calls() const;
};

}  // namespace hybridattn::testing
