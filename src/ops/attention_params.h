// What an attention kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/attention.h"
#include "src/core/head_scales.h"

namespace hybridattn::ops {

// ---- The work of kernels of an accelerator.

// A key head's queries are its tokens' heads one after the other: query row i of a batch's row is
// head i % group of token i / group. A tile is a few of these query rows.

/// One block's work for every key head: query rows [first, first + the tile's) of row `row` over
/// keys [begin, end). A block without keys to see still writes its zeros. What the row's arrays
/// hold of it stands here again: a kernel begins with one read.
struct AttentionWork {
  std::int32_t row;
  std::int32_t first;
  std::int32_t begin, end;
  std::int32_t part;  ///< place of its first query row among the parts; -1: to the output
  std::int32_t q_start, q_length, kv_length;
  std::int64_t kv_start;
};

/// A tile whose keys went to several blocks: their parts, a tile's rows apart.
struct AttentionJoin {
  std::int32_t row;
  std::int32_t first;
  std::int32_t part;
  std::int32_t parts;
  std::int32_t index;  ///< of the first part, counted from the row's first key where cuts are fixed
  std::int32_t tile;   ///< query rows of a part
  std::int32_t q_start, q_length;
  // Of rows that read their first keys together: parts of tiles over the query rows of all of them,
  // one tile's after the other's. They come before those above.
  std::int32_t shared_parts = 0;  ///< of each such tile; 0: nothing is shared
  std::int32_t shared_part = 0;   ///< place of the first
  std::int32_t shared_tile = 1;   ///< query rows of a part
  std::int32_t shared_first = 0;  ///< number of query row `first` among those of all of them
};

/// Query rows of one tile of the kernel for few.
inline constexpr std::int32_t kAttentionFewRows = 16;

/// What kernels read, in the accelerator's memory.
struct AttentionTables {
  const std::int64_t* kv_start;     // [rows]
  const std::int32_t* q_start;      // [rows]
  const std::int32_t* q_length;     // [rows]
  const std::int32_t* kv_length;    // [rows]
  const std::int32_t* first_query;  // [rows + 1] queries of all rows before
  // As they are now: pieces of work for few and for many, joins, those of many among them
  const std::int32_t* counts;
  const AttentionWork* few;
  const AttentionWork* many;
  const AttentionJoin* joins;
  const std::int32_t* parents;                               // nullptr: no trees
  const std::int32_t* pages;                                 // nullptr: dense keys
  std::int32_t rows, queries, num_few, num_many, num_joins;  // room for as many
  std::int32_t many_rows;                                    // query rows of a tile of `many`
  bool shares;                                               // whether joins may have shared parts
  std::int64_t part_rows;
};

/// Bytes of what a call's parts leave for their joins, of `part_rows` query rows of each key head:
/// sums of values, the largest logit and the sum of weights, all in f32.
constexpr std::size_t attention_parts_bytes(std::int64_t part_rows, std::int64_t kv_heads,
                                            std::int64_t dim) {
  return static_cast<std::size_t>(part_rows * kv_heads * (dim + 2)) * sizeof(float);
}

struct AttentionParams {
  AttentionRows rows;
  ConstTensorView q;      // [tokens, q_heads, dim]
  ConstTensorView k;      // [pages, page_size, kv_heads, dim]; dense: pages of one key
  ConstTensorView v;      // [pages, page_size, kv_heads, v_dim]
  TensorView out;         // [tokens, q_heads, v_dim]
  ConstTensorView sinks;  // optional [q_heads] f32
  TensorView lse;         // optional [tokens, q_heads] f32
  AttentionOptions options;
  ConstTensorView gate;                     // optional [tokens, q_heads, v_dim]
  core::HeadScales k_scale, v_scale;        // of options
  std::int64_t group;                       // query heads of one key head
  const AttentionTables* tables = nullptr;  // the rows and their work on an accelerator
  bool batch_invariant = false;             // a row's result may not follow from the others
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

// ---- The CPU kernel with products in bf16.

inline constexpr std::int64_t kAttentionBf16Keys = 256;  // of one tile
inline constexpr std::int64_t kAttentionBf16Rows = 128;  // query rows of one tile, at most

constexpr std::int64_t attention_bf16_tokens(std::int64_t group) {
  return group >= kAttentionBf16Rows ? 1 : kAttentionBf16Rows / group;
}

/// Whether it serves a call: it needs whole tiles, and keys and values that bf16 holds exactly.
inline bool attention_in_bf16(const AttentionParams& p) {
  const auto cached = [](DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF8E4M3; };
  const std::int64_t dim = p.q.dim(2), v_dim = p.v.dim(3);
  return p.q.dtype == DType::kBF16 && cached(p.k.dtype) && cached(p.v.dtype) && dim % 32 == 0 &&
         v_dim % 16 == 0 && v_dim <= 256;
}

/// Bytes of scratch of one worker: queries and keys, pairs of values; logits, weights in two forms;
/// outputs; six numbers of each row; which tokens of a tree each sees.
constexpr std::size_t attention_bf16_scratch(std::int64_t group, std::int64_t dim,
                                             std::int64_t v_dim) {
  const std::int64_t rows = (attention_bf16_tokens(group) * group + 15) / 16 * 16;
  const std::int64_t keys = kAttentionBf16Keys;
  return static_cast<std::size_t>(dim * 2 * (rows + keys) + keys * v_dim * 2 +
                                  rows * keys * (4 + 2 + 2) + rows * v_dim * 4 + 6 * rows * 4 +
                                  kMaxTreeTokens * rows * 4 + 16 * 64);
}

/// Bytes of scratch of one worker, whichever form serves.
constexpr std::size_t attention_workspace(std::int64_t group, std::int64_t dim,
                                          std::int64_t v_dim) {
  const std::size_t in_float = attention_scratch(group, dim, v_dim);
  const std::size_t in_bf16 = attention_bf16_scratch(group, dim, v_dim);
  return in_float > in_bf16 ? in_float : in_bf16;
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
