// Moves keys and values within a paged cache, token by token.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct CopyKvArgs {
  /// [pages, page_size, HK, D] f32, bf16, f16 or f8_e4m3; any page, token, head stride
  TensorView k_cache{};
  TensorView v_cache{};                       ///< [pages, page_size, HK, DV]
  const std::int64_t* source = nullptr;       ///< [count] page * page_size + offset
  const std::int64_t* destination = nullptr;  ///< [count]; a pair with kPadIndex is skipped
  std::int64_t count = 0;
  /// CUDA: the same arrays on the device. nullptr = the op uploads them for itself.
  const std::int64_t* device_source = nullptr;
  const std::int64_t* device_destination = nullptr;
};

/// Copies the pairs one after the other, so that a later one may read what an earlier one wrote
/// over: a path of a tree moves to the front of its row. Errors: invalid_argument, out_of_range,
/// unsupported. Nothing is written on an error.
HYBRIDATTN_API Status copy_kv(Context& context, const CopyKvArgs& args);

}  // namespace hybridattn
