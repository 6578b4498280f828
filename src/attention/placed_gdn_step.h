// A step of Gated DeltaNet where the kernels of an accelerator read it.
#pragma once

#include <cstdint>
#include <memory>

#include "hybridattn/context.h"
#include "hybridattn/forward_batch.h"
#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/verify_rows.h"

namespace hybridattn::backend {

/// What one step says of its rows and tokens, on the host.
struct GdnStep {
  RaggedRows steps;               // rows of one token
  RaggedRows prefills;            // of any length
  RaggedRows steps_and_prefills;  // both, in this order: what the convolution takes at once
  RaggedRows verifies;
  VerifyRows verify;
  const std::uint8_t* pad;        // [tokens] of NormToken, where the norm takes all rows
  const std::uint8_t* chunk_pad;  // [tokens] the same, where it takes `prefills` alone
  std::int64_t tokens;
};

/// The arrays of steps in one block at an address that never changes, filled by one copy. A step's
/// are replaced in order with the work on the context's stream, so one may be written while the
/// last still runs.
class PlacedGdnStep {
 public:
  /// `captured`: the tables have as many rows and chunks as a step of `shape` can have, whatever a
  /// step has; else as many as the step. Errors: resource_exhausted.
  static Result<std::unique_ptr<PlacedGdnStep>> create(Context& context, const GraphShape& shape,
                                                       bool captured);
  ~PlacedGdnStep();
  PlacedGdnStep(const PlacedGdnStep&) = delete;
  PlacedGdnStep& operator=(const PlacedGdnStep&) = delete;

  /// Replaces the step, which must fit the shape. Errors: resource_exhausted, device_error.
  Status write(const GdnStep& step);
  bool holds(const GraphShape& shape) const noexcept;

  const DeviceRowTables* steps() const noexcept { return &steps_; }
  const DeviceRowTables* prefills() const noexcept { return &prefills_; }
  const DeviceRowTables* steps_and_prefills() const noexcept { return &all_; }
  const DeviceRowTables* verifies() const noexcept { return &verifies_; }
  const std::int32_t* kept() const noexcept { return kept_; }
  const std::int32_t* parents() const noexcept { return parents_; }
  const std::uint8_t* pad() const noexcept { return pad_; }
  const std::uint8_t* chunk_pad() const noexcept { return chunk_pad_; }

 private:
  struct Layout;
  PlacedGdnStep(Context& context, const GraphShape& shape, bool captured);
  void point(const Layout& layout, std::int32_t num_steps) noexcept;

  Context& context_;
  GraphShape shape_;
  bool captured_;
  std::size_t bytes_;
  std::byte* block_ = nullptr;
  DeviceRowTables steps_, prefills_, all_, verifies_;
  const std::int32_t* kept_ = nullptr;
  const std::int32_t* parents_ = nullptr;
  const std::uint8_t* pad_ = nullptr;
  const std::uint8_t* chunk_pad_ = nullptr;
};

}  // namespace hybridattn::backend
