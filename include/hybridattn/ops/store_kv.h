// Writes new keys and values into a paged cache.
#pragma once

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

struct StoreKvArgs {
  ConstTensorView k{};  ///< [T, HK, D] f32, bf16 or f16
  ConstTensorView v{};  ///< [T, HK, DV]
  /// [T]: page * page_size + offset in the page, or kPadIndex: the token is skipped. No two tokens
  /// may name the same place.
  const std::int64_t* token_slots = nullptr;
  TensorView
      k_cache{};  ///< [pages, page_size, HK, D] f32, bf16 or f16; any page, token, head stride
  TensorView v_cache{};  ///< [pages, page_size, HK, DV]
};

/// Rounds k and v to the cache's type and stores them.
/// Errors: invalid_argument, out_of_range (a slot outside the cache), unsupported. Nothing is
/// written on an error.
HYBRIDATTN_API Status store_kv(Context& context, const StoreKvArgs& args);

}  // namespace hybridattn
