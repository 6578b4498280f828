// Small arrays of a step on their way to the device: written by the host into pinned memory, copied
// on the stream, read by the kernels behind the copy.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "src/core/device.h"

namespace hybridattn::core {

/// A ring of a few segments. A segment is written again only when the stream has passed the last
/// use of what it held before, so no copy can read what a later step wrote.
class UploadRing {
 public:
  struct Piece {
    std::byte* host;
    std::byte* device;
    std::size_t bytes;
  };

  explicit UploadRing(Device& device) : device_(device) {}
  ~UploadRing();
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  /// Makes later pieces of up to `bytes` allocate nothing. Errors: resource_exhausted,
  /// device_error.
  Status reserve(std::size_t bytes);
  /// Room for `bytes`, to be filled and then sent. Allocates only when it is more than ever before.
  /// Errors: resource_exhausted, device_error.
  Result<Piece> take(std::size_t bytes);
  /// Orders the copy. Kernels launched after it may use piece.device, until the ring comes round.
  Status send(const Piece& piece);
  /// Orders a copy of host memory, which may be written at once, to `to` on the device. Errors: as
  /// take.
  Status copy(void* to, const void* from, std::size_t bytes);

 private:
  static constexpr int kSegments = 4;
  Status grow(std::size_t bytes);
  void release() noexcept;

  Device& device_;
  std::byte* host_ = nullptr;
  std::byte* on_device_ = nullptr;
  std::size_t segment_bytes_ = 0;
  std::size_t used_ = 0;  // of the current segment
  int segment_ = 0;
  std::array<std::unique_ptr<DeviceEvent>, kSegments> ends_;  // of what was sent from each
};

}  // namespace hybridattn::core
