// Rows of a batch where the kernels of a context can read them.
#pragma once

#include <cstddef>

#include "hybridattn/context.h"
#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/verify_rows.h"

namespace hybridattn::ops {

/// How rows lie in one block: the arrays of DeviceRowTables one after the other.
struct RowBlock {
  std::int32_t count;
  std::int32_t chunks;

  std::size_t bytes() const noexcept;
  /// Writes the arrays; rows behind `rows.count` and chunks behind the last are empty.
  void write(const RaggedRows& rows, std::byte* host) const noexcept;
  DeviceRowTables tables(const std::byte* device) const noexcept;
};

/// Chunks of the rows.
std::int64_t count_chunks(const RaggedRows& rows) noexcept;

/// Makes `rows.device` good on a CUDA context: uploads to `tables` unless the caller has done so.
/// Does nothing on the CPU. Errors: resource_exhausted, device_error.
Status place_rows(Context& context, RaggedRows& rows, DeviceRowTables& tables);
/// The same for the arrays of verify rows. `tokens` = length of the stream.
Status place_verify_rows(Context& context, const RaggedRows& rows, std::int64_t tokens,
                         VerifyRows& verify);
/// `bytes` of the host as the kernels of a CUDA context read them: uploaded.
Result<const void*> upload(Context& context, const void* data, std::size_t bytes);
/// An array of the host as the kernels of the context read it: itself on the CPU, else `device`
/// where the caller has it there, else uploaded. Null stays null.
template <class T>
Result<const T*> place_array(Context& context, const T* data, std::int64_t count,
                             const T* device = nullptr) {
  if (context.device() == DeviceType::kCpu || data == nullptr || count == 0) return data;
  if (device != nullptr) return device;
  const Result<const void*> placed =
      upload(context, data, static_cast<std::size_t>(count) * sizeof(T));
  if (!placed.ok()) return placed.status();
  return static_cast<const T*>(*placed);
}

}  // namespace hybridattn::ops
