// WeightUploader: copies weights to the context's device, through pinned memory.
#pragma once

#include <array>
#include <initializer_list>
#include <span>

#include "engine/model/device_weights.h"
#include "engine/model/weights.h"

namespace hybridattn::engine {

class WeightUploader {
 public:
  /// Matrices become `dtype` on their way. `total` bytes to come, for `progress`.
  WeightUploader(Context& context, DType dtype, DeviceBlocks& blocks, std::int64_t total,
                 const LoadProgress& progress);
  ~WeightUploader();
  WeightUploader(const WeightUploader&) = delete;
  WeightUploader& operator=(const WeightUploader&) = delete;

  /// Replaces a dense view of host memory by one of a copy on the device: matrices in `dtype`,
  /// vectors as they are. Errors: resource_exhausted, device_error.
  Status matrix(ConstTensorView& view);
  Status vector(ConstTensorView& view);
  /// The same for matrices [rows, columns] of equally many columns, whose copies follow each other
  /// in memory. Returns all of them as one.
  Result<ConstTensorView> joined(std::span<ConstTensorView* const> views);
  Result<ConstTensorView> joined(std::initializer_list<ConstTensorView*> views) {
    return joined(std::span<ConstTensorView* const>(views.begin(), views.size()));
  }
  /// When all copies are done.
  Status finish() { return context_.synchronize(); }

 private:
  Status copy(const ConstTensorView& from, DType dtype, std::byte* to);
  Result<std::byte*> next_stage();

  static constexpr std::int64_t kStageBytes = std::int64_t{16} << 20;
  Context& context_;
  DType dtype_;
  DeviceBlocks& blocks_;
  const LoadProgress& progress_;
  std::int64_t total_, done_ = 0;
  std::array<std::byte*, 2> stages_{};  // pinned: one is filled while the other is copied
  int stage_ = 0;
};

/// Moves all weights to the context's device and frees what the host held of them. Projections of
/// one input are joined where products can take them as one, and the experts of a mixture. Errors:
/// unsupported for matrices in eight bits; resource_exhausted, device_error: the weights are of no
/// use then.
Status upload_weights(Context& context, DType dtype, ModelWeights& weights,
                      const LoadProgress& progress = {});

}  // namespace hybridattn::engine
