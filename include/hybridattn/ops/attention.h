// Softmax attention over paged or dense keys and values, for prefill, decode and mixed batches.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/ops/verify_rows.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// Rows cut into work on an accelerator, of a DeviceAttentionRows.
struct PlacedAttentionRows;

/// Rows of a batch as attention sees them. Arrays are the caller's and live until the op returns.
struct AttentionRows {
  std::int32_t count = 0;
  const std::int32_t* q_start = nullptr;    ///< [count] first token in the stream of queries
  const std::int32_t* q_length = nullptr;   ///< [count] number of queries; 0 is legal
  const std::int32_t* kv_length = nullptr;  ///< [count] keys of the row, the new ones counted in
  /// Paged: [count] index of the row's first page in `pages`. Dense: index of its first key.
  const std::int64_t* kv_start = nullptr;
  /// Paged: page ids of all rows; row r uses ceil(kv_length / page_size) from kv_start[r] on.
  /// Dense: nullptr.
  const std::int32_t* pages = nullptr;
  std::int64_t num_pages_listed = 0;  ///< elements of `pages`
  /// Optional [T], as in VerifyRows: a token of a tree sees the keys before the row's new ones,
  /// those of the tokens that it follows, and its own. Needs causal.
  const std::int32_t* parents = nullptr;
  /// CUDA: what DeviceAttentionRows::rows has; nullptr = each call uploads the rows for itself.
  const PlacedAttentionRows* device = nullptr;
};

struct AttentionOptions {
  float scale = 0.0f;      ///< on q.k, required: usually D^-1/2
  bool causal = true;      ///< aligned to the bottom right; false = every query sees every key
  float logit_cap = 0.0f;  ///< cap * tanh(s / cap); 0 = off
  /// Window in keys, the current one counted; -1 = off. Key j is seen by the query at position i
  /// iff i - window < j <= i; needs causal. A token of a tree stands behind those it follows.
  std::int32_t window = -1;
  float k_scale = 1.0f;  ///< the cache holds k / k_scale, as store_kv wrote it
  float v_scale = 1.0f;  ///< the cache holds v / v_scale
  /// Optional [HK] f32, each finite and positive: a scale for each key head, beside k_scale = 1.
  ConstTensorView k_scales{};
  ConstTensorView v_scales{};  ///< the same for values, beside v_scale = 1
};

/// HQ query heads, a multiple of the HK key heads; query head h reads key head h / (HQ/HK).
struct AttentionArgs {
  AttentionRows rows;
  ConstTensorView q{};  ///< [T, HQ, D] f32, bf16 or f16
  /// Paged [pages, page_size, HK, D] or dense [tokens, HK, D]; f32, bf16, f16 or f8_e4m3
  ConstTensorView k{};
  ConstTensorView v{};      ///< paged [pages, page_size, HK, DV], or dense [tokens, HK, DV]
  TensorView out{};         ///< [T, HQ, DV]; may not overlap an input
  ConstTensorView sinks{};  ///< optional [HQ] f32: one more logit in the denominator only
  TensorView lse{};         ///< optional [T, HQ] f32: natural log of the denominator
  AttentionOptions options;
  /// Optional [T, HQ, DV] f32, bf16 or f16: the output is multiplied with sigmoid(gate) before it
  /// is rounded; on CUDA, beside rows of many queries or with batch_invariant, once it is rounded,
  /// and rounded again. lse is as without.
  ConstTensorView gate{};
};

/// softmax(mask(cap(scale q k^T))) v in float32; where q is bf16, keys and values bf16 or f8_e4m3
/// and the processor multiplies bf16, weights are rounded to bf16 for their product with v. A query
/// that sees nothing gets output 0 and lse = -inf, with sinks too, whatever its gate. How the
/// sums are added up, and so the last bits, depends on CUDA on the other rows and on the room that
/// DeviceAttentionRows were made with, but for contexts with batch_invariant, and on how a row's
/// queries are cut, but for those with chunk_invariant.
/// Errors: invalid_argument, out_of_range (a page outside the cache, too few pages), unsupported.
/// Values of a row's new keys that a query does not see must be finite: kernels may multiply them
/// by 0.
HYBRIDATTN_API Status attention(Context& context, const AttentionArgs& args);

struct MergeStatesArgs {
  ConstTensorView out_a{};  ///< [T, H, D] f32, bf16 or f16
  ConstTensorView lse_a{};  ///< [T, H] f32, natural log
  ConstTensorView out_b{};  ///< [T, H, D]
  ConstTensorView lse_b{};  ///< [T, H] f32
  TensorView out{};         ///< [T, H, D]; may be out_a or out_b
  TensorView lse{};         ///< optional [T, H] f32; may be lse_a or lse_b
};

/// Joins two attention results over disjoint keys: weights exp(lse - max), a side with -inf drops
/// out exactly, both -inf give 0 and -inf. Gates belong behind the merge (sigmoid_gate): a side
/// that has its gate already must not get it again. Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status merge_states(Context& context, const MergeStatesArgs& args);

}  // namespace hybridattn
