// DeviceRows: the rows of a step where all ops of the step, and graphs, find them.
#pragma once

#include <memory>
#include <vector>

#include "hybridattn/context.h"
#include "hybridattn/ops/ragged_rows.h"

namespace hybridattn {

/// Rows in memory of their own, at addresses that never change. An op given plain host arrays
/// uploads them for itself; ops given rows of this share one upload, and a captured graph reads
/// whatever the last `write` left. On the CPU it is a copy of the arrays.
class HYBRIDATTN_API DeviceRows {
 public:
  /// For at most `max_rows` rows of `max_tokens` tokens in all. `context` is borrowed and must
  /// outlive it. Errors: invalid_argument, resource_exhausted.
  static Result<std::unique_ptr<DeviceRows>> create(Context& context, std::int32_t max_rows,
                                                    std::int32_t max_tokens);
  ~DeviceRows();
  DeviceRows(const DeviceRows&) = delete;
  DeviceRows& operator=(const DeviceRows&) = delete;

  /// Replaces the rows, in order with the ops of the context's stream. Allocates nothing. Rows that
  /// are not used become empty. Errors: out_of_range when they do not fit; device_error.
  Status write(const RaggedRows& rows);
  /// What ops take. Valid until the next write; as a part of a captured graph for good.
  RaggedRows rows() const noexcept;

 private:
  DeviceRows(Context& context, std::int32_t max_rows, std::int32_t max_tokens);
  Context& context_;
  std::int32_t max_rows_;
  std::int32_t max_chunks_;
  std::int32_t max_tokens_;
  std::int32_t count_ = 0;
  std::vector<std::int32_t> host_;  // start, length, slot, computed
  std::byte* block_ = nullptr;      // on the device
  DeviceRowTables tables_;
};

}  // namespace hybridattn
