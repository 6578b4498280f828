// A step of paged attention where the kernels of an accelerator read it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "hybridattn/device_attention_rows.h"

namespace hybridattn::backend {

/// What one step says of its tokens and rows, on the host.
struct PagedStep {
  AttentionRows rows;
  const std::int64_t* token_slots;  // [tokens]
  std::int64_t tokens;
};

/// The arrays of steps at addresses that never change. A step's are replaced in order with the work
/// on the context's stream, so one may be written while the last still runs.
class PlacedStep {
 public:
  /// Errors: resource_exhausted.
  static Result<std::unique_ptr<PlacedStep>> create(Context& context,
                                                    const AttentionLimits& limits);
  ~PlacedStep();
  PlacedStep(const PlacedStep&) = delete;
  PlacedStep& operator=(const PlacedStep&) = delete;

  /// Makes room for layers with these heads, whose rows every `write` cuts anew. Errors: as
  /// DeviceAttentionRows; failed_precondition while a graph is captured.
  Status add(const AttentionHeads& heads);
  /// Rows for layers with these heads, made now where they were not added.
  Result<AttentionRows> rows(const AttentionHeads& heads);
  /// Replaces the step. `step` must stay what it is until the next write, or until it is forgotten.
  /// Errors: out_of_range, device_error.
  Status write(const PagedStep& step);
  /// For a new owner: the arrays of the last step may be gone.
  void forget() noexcept { step_ = {}; }

  /// Scratch of a call for these heads of `dim` elements, which were added, over the rows of the
  /// last write; where calls may be captured, over any.
  std::size_t scratch_bytes(const AttentionHeads& heads, std::int64_t dim) const noexcept;
  bool holds(const AttentionLimits& limits) const noexcept;
  const AttentionLimits& limits() const noexcept { return limits_; }
  const std::int64_t* token_slots() const noexcept { return token_slots_; }

 private:
  PlacedStep(Context& context, const AttentionLimits& limits);
  std::size_t bytes() const noexcept;

  Context& context_;
  AttentionLimits limits_;
  PagedStep step_{};
  std::byte* memory_ = nullptr;
  std::int64_t* token_slots_ = nullptr;
  std::vector<std::pair<AttentionHeads, std::unique_ptr<DeviceAttentionRows>>> kinds_;
};

}  // namespace hybridattn::backend
