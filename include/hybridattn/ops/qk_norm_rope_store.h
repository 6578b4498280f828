// Queries and keys on their way into paged attention: norm, rotation and store in one kernel.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// T tokens, HQ query heads, HK key-value heads of D and DV elements, R rotated dims (even, at most
/// D). A view without dimensions is "not given".
struct QkNormRopeStoreArgs {
  ConstTensorView q{};       ///< [T, HQ, D] f32, bf16 or f16
  ConstTensorView k{};       ///< optional [T, HK, D]
  ConstTensorView v{};       ///< [T, HK, DV], given exactly where the caches are
  ConstTensorView q_norm{};  ///< optional [D]: weight of the RMSNorm of q
  ConstTensorView k_norm{};  ///< optional [D]: the same for k
  float epsilon = 1e-6f;
  bool zero_centered = true;  ///< multiply by 1 + weight, as in rms_norm
  /// Optional [T, R/2] f32, both or neither: rotate q and k behind their norms, as in rotary.
  /// rotary_table makes them, of one position a token or of three (M-RoPE).
  ConstTensorView cos{};
  ConstTensorView sin{};
  TensorView q_out{};  ///< [T, HQ, D]; may be q itself
  TensorView k_out{};  ///< optional [T, HK, D]; may be k itself. Needed where there is no cache
  /// [T], with the caches: as in store_kv. The k and v of a token at kPadIndex go to no cache; its
  /// q_out and k_out are those of any other token.
  const std::int64_t* token_slots = nullptr;
  /// Optional [pages, page_size, HK, D] f32, bf16, f16 or f8_e4m3; any page, token, head stride
  TensorView k_cache{};
  TensorView v_cache{};  ///< [pages, page_size, HK, DV], given exactly where k_cache is
  float k_scale = 1.0f;  ///< stored is k / k_scale; attention takes the same scales
  float v_scale = 1.0f;  ///< stored is v / v_scale
  /// CUDA: the same array on the device. nullptr = the op uploads it for itself.
  const std::int64_t* device_token_slots = nullptr;
  /// Optional [HK] f32, each finite and positive: a scale for each head, beside k_scale = 1.
  ConstTensorView k_scales{};
  ConstTensorView v_scales{};  ///< the same for values, beside v_scale = 1
};

/// rms_norm of q and of k over D, rotary of both, store_kv of k and v, each where its arguments are
/// given. float32 between them and one rounding to each output: with caches of fewer bits than k
/// the keys are at least as exact as those that the three ops round one after the other. Errors:
/// invalid_argument, out_of_range (a slot outside the cache), unsupported. Nothing is written on an
/// error.
HYBRIDATTN_API Status qk_norm_rope_store(Context& context, const QkNormRopeStoreArgs& args);

}  // namespace hybridattn
