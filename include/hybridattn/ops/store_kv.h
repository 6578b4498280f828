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
  /// [pages, page_size, HK, D] f32, bf16, f16 or f8_e4m3; any page, token, head stride
  TensorView k_cache{};
  TensorView v_cache{};  ///< [pages, page_size, HK, DV]
  float k_scale = 1.0f;  ///< stored is k / k_scale; attention takes the same scales
  float v_scale = 1.0f;  ///< stored is v / v_scale
  /// CUDA: the same array on the device. nullptr = the op uploads it for itself.
  const std::int64_t* device_token_slots = nullptr;
  /// Optional [HK] f32, each finite and positive: a scale for each head, beside k_scale = 1.
  ConstTensorView k_scales{};
  ConstTensorView v_scales{};  ///< the same for values, beside v_scale = 1
};

/// Divides k and v by their scales, rounds them to the cache's type (f8_e4m3: cut at 448) and
/// stores them.
/// Errors: invalid_argument, out_of_range (a slot outside the cache), unsupported. Nothing is
/// written on an error.
HYBRIDATTN_API Status store_kv(Context& context, const StoreKvArgs& args);

}  // namespace hybridattn
