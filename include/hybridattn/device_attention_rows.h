// DeviceAttentionRows: the rows of attention where all layers of a step, and graphs, find them.
#pragma once

#include <memory>

#include "hybridattn/context.h"
#include "hybridattn/ops/attention.h"

namespace hybridattn {

/// What rows are checked and cut into work for, alike in all layers that share them.
struct AttentionHeads {
  std::int32_t num_heads = 0;     ///< HQ
  std::int32_t num_kv_heads = 0;  ///< HK
  std::int32_t page_size = 0;     ///< 0: keys are dense
  bool causal = true;
  std::int32_t window = -1;  ///< as in AttentionOptions

  bool operator==(const AttentionHeads&) const = default;
};

/// The most that a DeviceAttentionRows holds.
struct AttentionLimits {
  std::int32_t rows = 0;
  std::int32_t tokens = 0;  ///< length of the stream of queries
  std::int64_t pages = 0;   ///< listed by all rows
  std::int32_t keys = 0;    ///< of one row
  /// Queries of one row; 0: as many as `tokens`. Kernels for many queries are left out of a
  /// captured graph where it excludes them.
  std::int32_t row_tokens = 0;
  std::int64_t all_keys = 0;  ///< of all rows together; 0: as many as rows x keys
  /// Of the caches, of dense ones keys; 0: each call tells, and none may be captured.
  std::int64_t cache_pages = 0;
  /// Whether calls may be captured: each then launches, and has workspace for, the most that may
  /// ever be written. Otherwise it goes by the rows at hand, and may not be captured.
  bool captured = true;
  /// CUDA: rows one after the other, of queries one after the other, whose lists begin with the
  /// same pages read those once, and join them with what each row has to itself. Results then
  /// depend on the neighbours, within the bound: refused with batch_invariant. Nothing is shared
  /// between trees, or under a window.
  bool shared_prefixes = false;
  /// How many keys of a head fewer each block of the card must read for that: one more kernel and
  /// a join take as long as a few hundred on an H100, whose second-level cache has short prefixes.
  std::int32_t least_saved = 1024;
};

/// Rows in memory of their own, at addresses that never change, cut into work for the kernels.
/// `attention` given plain host arrays cuts and uploads them in each call; given rows of this it
/// does neither, and a captured graph reads whatever the last `write` left. On the CPU it is a copy
/// of the arrays.
class HYBRIDATTN_API DeviceAttentionRows {
 public:
  /// `context` is borrowed and must outlive it. Errors: invalid_argument, resource_exhausted.
  static Result<std::unique_ptr<DeviceAttentionRows>> create(Context& context,
                                                             const AttentionHeads& heads,
                                                             const AttentionLimits& limits);
  ~DeviceAttentionRows();
  DeviceAttentionRows(const DeviceAttentionRows&) = delete;
  DeviceAttentionRows& operator=(const DeviceAttentionRows&) = delete;

  /// Replaces the rows, in order with the ops of the context's stream. Allocates nothing. Errors:
  /// as attention has for rows; out_of_range when they do not fit; device_error.
  Status write(const AttentionRows& rows);
  /// What `attention` takes, with these heads. Valid until the next write; as a part of a captured
  /// graph for good.
  AttentionRows rows() const noexcept;

 private:
  struct Impl;
  static Result<std::unique_ptr<DeviceAttentionRows>> make(Context& context,
                                                           const AttentionHeads& heads,
                                                           const AttentionLimits& limits);
  explicit DeviceAttentionRows(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hybridattn
