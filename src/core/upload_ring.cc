#include "src/core/upload_ring.h"

#include <algorithm>
#include <cstring>

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"

namespace hybridattn::core {
namespace {

/// Rows and chunk tables of a few hundred requests.
constexpr std::size_t kFirstSegmentBytes = std::size_t{256} << 10;

}  // namespace

UploadRing::~UploadRing() { release(); }

void UploadRing::release() noexcept {
  if (host_ != nullptr) device_.pinned().deallocate(host_, segment_bytes_ * kSegments);
  if (on_device_ != nullptr) device_.memory().deallocate(on_device_, segment_bytes_ * kSegments);
  host_ = nullptr;
  on_device_ = nullptr;
  segment_bytes_ = 0;
}

Status UploadRing::grow(std::size_t bytes) {
  // What was sent may still be read.
  HYBRIDATTN_TRY(device_.synchronize("upload"));
  release();
  for (auto& end : ends_) {
    if (end != nullptr) continue;
    HYBRIDATTN_ASSIGN(end, device_.make_event());
  }
  const std::size_t wanted = std::max(kFirstSegmentBytes, round_to_alignment(2 * bytes));
  host_ = static_cast<std::byte*>(device_.pinned().allocate(wanted * kSegments));
  on_device_ = static_cast<std::byte*>(device_.memory().allocate(wanted * kSegments));
  segment_bytes_ = wanted;
  used_ = 0;
  segment_ = 0;
  if (host_ != nullptr && on_device_ != nullptr) return {};
  release();
  return error(StatusCode::kResourceExhausted, "upload: no ", wanted * kSegments,
               " bytes of pinned and of device memory are left");
}

Status UploadRing::reserve(std::size_t bytes) {
  const std::size_t rounded = round_to_alignment(std::max<std::size_t>(bytes, 1));
  return rounded > segment_bytes_ ? grow(rounded) : Status();
}

Result<UploadRing::Piece> UploadRing::take(std::size_t bytes) {
  if (device_.capturing()) {
    return error(StatusCode::kFailedPrecondition, "upload: ", bytes,
                 " bytes of host arrays are given while a graph is captured, whose replays would "
                 "read whatever has taken their place; give arrays of the device");
  }
  const std::size_t rounded = round_to_alignment(std::max<std::size_t>(bytes, 1));
  HYBRIDATTN_TRY(reserve(rounded));
  if (used_ + rounded > segment_bytes_) {
    HYBRIDATTN_TRY(ends_[static_cast<std::size_t>(segment_)]->mark());
    segment_ = (segment_ + 1) % kSegments;
    HYBRIDATTN_TRY(ends_[static_cast<std::size_t>(segment_)]->wait());
    used_ = 0;
  }
  const std::size_t at = static_cast<std::size_t>(segment_) * segment_bytes_ + used_;
  used_ += rounded;
  return Piece{host_ + at, on_device_ + at, bytes};
}

Status UploadRing::send(const Piece& piece) {
  return device_.upload(piece.device, piece.host, piece.bytes);
}

Status UploadRing::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return {};
  HYBRIDATTN_ASSIGN(const Piece piece, take(bytes));
  std::memcpy(piece.host, from, bytes);
  return device_.upload(to, piece.host, bytes);
}

}  // namespace hybridattn::core
