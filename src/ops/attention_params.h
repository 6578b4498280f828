// What an attention kernel takes. Strides inside the views count elements.
#pragma once

#include "hybridattn/ops/attention.h"

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
  const std::int32_t* counts;       // pieces of work for few and for many, joins, as they are now
  const AttentionWork* few;
  const AttentionWork* many;
  const AttentionJoin* joins;
  const std::int32_t* parents;                               // nullptr: no trees
  const std::int32_t* pages;                                 // nullptr: dense keys
  std::int32_t rows, queries, num_few, num_many, num_joins;  // room for as many
  std::int32_t many_rows;                                    // query rows of a tile of `many`
  std::int64_t part_rows;
};

struct AttentionParams {
  AttentionRows rows;
  ConstTensorView q;      // [tokens, q_heads, dim]
  ConstTensorView k;      // [pages, page_size, kv_heads, dim]; dense: pages of one key
  ConstTensorView v;      // [pages, page_size, kv_heads, v_dim]
  TensorView out;         // [tokens, q_heads, v_dim]
  ConstTensorView sinks;  // optional [q_heads] f32
  TensorView lse;         // optional [tokens, q_heads] f32
  AttentionOptions options;
  std::int64_t group;                       // query heads of one key head
  bool one_kernel = false;                  // rows of few tokens take the same one as all others
  const AttentionTables* tables = nullptr;  // the rows and their work on an accelerator
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

// ---- The CPU kernel for rows of few tokens.

/// Rows of up to so many tokens go token by token, so that a row of drafts has the bits of the
/// steps that it stands for.
inline constexpr std::int64_t kAttentionFewTokens = kMaxTreeTokens + 1;
/// Keys of one part of a row. Parts start at multiples of it from the row's first key.
inline constexpr std::int64_t kAttentionPart = 512;
/// Parts, of one key head each, whose results a worker's scratch has room for.
inline constexpr std::int64_t kAttentionParts = 32;
/// Query heads that are multiplied at a time, and that a task takes at most where one key head has
/// no more.
inline constexpr std::int64_t kAttentionHeadBlock = 4;
inline constexpr std::int64_t kAttentionDecodeRows = 32;

/// Floats of a part's results for one key head: sums of values, maxima, denominators.
constexpr std::int64_t attention_part_floats(std::int64_t group, std::int64_t v_dim) {
  return group * (attention_padded(v_dim) + 2);
}

/// Bytes of scratch of one worker: queries, logits and weights in two forms, sums, two numbers of
/// each query head.
constexpr std::size_t attention_decode_scratch(std::int64_t group, std::int64_t dim,
                                               std::int64_t v_dim) {
  const std::int64_t rows = group > kAttentionDecodeRows ? group : kAttentionDecodeRows;
  const std::int64_t d = attention_padded(dim), dv = attention_padded(v_dim);
  return static_cast<std::size_t>(rows * (4 * (d + dv + 2) + 6 * kAttentionPart) + 6 * 64);
}

/// Where in a worker's scratch the results of parts begin.
constexpr std::size_t attention_parts_offset(std::int64_t group, std::int64_t dim,
                                             std::int64_t v_dim) {
  std::size_t most = attention_scratch(group, dim, v_dim);
  for (const std::size_t bytes :
       {attention_bf16_scratch(group, dim, v_dim), attention_decode_scratch(group, dim, v_dim)}) {
    most = bytes > most ? bytes : most;
  }
  return (most + 63) / 64 * 64;
}

/// Bytes of scratch of one worker, whichever form serves.
constexpr std::size_t attention_workspace(std::int64_t group, std::int64_t dim,
                                          std::int64_t v_dim) {
  return attention_parts_offset(group, dim, v_dim) +
         static_cast<std::size_t>(kAttentionParts * attention_part_floats(group, v_dim)) *
             sizeof(float);
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
