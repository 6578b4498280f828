// What a attention kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/attention.h"

namespace hybridattn::ops {

struct AttentionParams {
  AttentionRows rows;
  ConstTensorView q;      // [tokens, q_heads, dim]
  ConstTensorView k;      // [pages, page_size, kv_heads, dim]; dense: pages of one key
  ConstTensorView v;      // [pages, page_size, kv_heads, v_dim]
  TensorView out;         // [tokens, q_heads, v_dim]
  ConstTensorView sinks;  // optional [q_heads] f32
  TensorView lse;         // optional [tokens, q_heads] f32
  AttentionOptions options;
  std::int64_t group;  // query heads of one key head
};

/// Keys of one tile. Tiles start at multiples of it from the row's first key, so that a query's sum
/// does not depend on the queries beside it.
inline constexpr std::int64_t kAttentionKeyTile = 64;
/// Query rows (tokens x heads of a group) of one tile, at most.
inline constexpr std::int64_t kAttentionQueryTile = 64;

constexpr std::int64_t attention_tile_tokens(std::int64_t group) {
  return group >= kAttentionQueryTile ? 1 : kAttentionQueryTile / group;
}

/// Head dims are padded to whole vectors in scratch.
constexpr std::int64_t attention_padded(std::int64_t dim) { return (dim + 15) / 16 * 16; }

/// Bytes of scratch that one worker needs: queries, keys, values, logits, sums, maxima.
constexpr std::size_t attention_scratch(std::int64_t group, std::int64_t dim, std::int64_t v_dim) {
  const std::int64_t rows = attention_tile_tokens(group) * group;
  const std::int64_t d = attention_padded(dim);
  const std::int64_t dv = attention_padded(v_dim);
  const std::int64_t floats =
      rows * (d + dv + kAttentionKeyTile + 4) + kAttentionKeyTile * (d + dv);
  return static_cast<std::size_t>(floats + 64) * sizeof(float);
}

/// What a call with these heads and options would be refused for, before there is one. Errors:
/// invalid_argument, unsupported.
Status check_attention_layer(std::int64_t num_heads, std::int64_t num_kv_heads,
                             std::int64_t head_dim, std::int64_t v_head_dim,
                             const AttentionOptions& options);

struct MergeStatesParams {
  ConstTensorView out_a;  // [tokens, heads, dim]
  ConstTensorView lse_a;  // [tokens, heads] f32
  ConstTensorView out_b;  // [tokens, heads, dim]
  ConstTensorView lse_b;  // [tokens, heads] f32
  TensorView out;         // [tokens, heads, dim]
  TensorView lse;         // optional [tokens, heads] f32
};

}  // namespace hybridattn::ops
