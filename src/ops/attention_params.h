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
  // Of a tile whose parts the blocks that make them add up: which this is, and of how many, each a
  // tile's rows further. 0 parts: it is the only one, or a join adds them up.
  std::int32_t piece = 0, parts = 0;
};

/// Up to so many parts of a tile are added up by one block, more in groups and then the groups'
/// sums, whose places are behind the parts.
inline constexpr int kAttentionJoinAtOnce = 16;
constexpr int attention_join_group(int parts) {
  if (parts <= kAttentionJoinAtOnce) return parts;
  int group = kAttentionJoinAtOnce / 2;
  while (group * group < parts) ++group;
  return group;
}
constexpr int attention_join_sums(int parts) {
  const int group = attention_join_group(parts);
  return group == parts ? 0 : (parts + group - 1) / group;
}

/// A tile whose keys went to several blocks, where its parts are added up by a kernel of its own:
/// their places, a tile's rows apart.
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
  // [part_rows / kAttentionFewRows, key heads] parts that are written, zeros between calls; beside
  // parts that joins add up, none.
  std::int32_t* arrived;
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
  bool one_kernel = false;                  // rows of few tokens take the same one as all others
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
inline constexpr std::int64_t kAttentionBf16Rows = 512;  // query rows of one task, at most
/// Fewer where the context's threads would else wait for each other at the end, but no less.
inline constexpr std::int64_t kAttentionBf16FewRows = 128;
/// Query rows that go through a tile of keys at a time.
inline constexpr std::int64_t kAttentionBf16Block = 32;
/// Units of 4 bytes behind each row of scratch.
inline constexpr std::int64_t kAttentionBf16Spare = 16;

/// Tokens of a task of so many query rows.
constexpr std::int64_t attention_bf16_tokens(std::int64_t group, std::int64_t rows) {
  return group >= rows ? 1 : rows / group;
}

/// Whether it serves a call: it needs whole tiles, and keys and values that bf16 holds exactly.
inline bool attention_in_bf16(const AttentionParams& p) {
  const auto cached = [](DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF8E4M3; };
  const std::int64_t dim = p.q.dim(2), v_dim = p.v.dim(3);
  return p.q.dtype == DType::kBF16 && cached(p.k.dtype) && cached(p.v.dtype) && dim % 32 == 0 &&
         v_dim % 16 == 0 && v_dim <= 256;
}

/// Bytes of scratch of one worker: queries, sums and what goes with each query row; keys and values
/// as operands, and rows of keys on their way there; a block's logits and weights.
constexpr std::size_t attention_bf16_scratch(std::int64_t group, std::int64_t dim,
                                             std::int64_t v_dim) {
  const std::int64_t tokens = attention_bf16_tokens(group, kAttentionBf16Rows);
  const std::int64_t rows = (tokens * group + 15) / 16 * 16;
  const std::int64_t keys = kAttentionBf16Keys, spare = kAttentionBf16Spare * 4;
  return static_cast<std::size_t>(rows * (dim * 2 + spare + v_dim * 4 + spare + 18 * 4) +
                                  tokens * 24 + dim / 2 * (keys * 4 + spare) +
                                  keys / 2 * (v_dim * 4 + spare) + 16 * dim * 2 +
                                  kAttentionBf16Block * (keys * 6 + 2 * spare) + 16 * 64);
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

/// From so many query heads to a key head on, such rows take tiles where there are any: with fewer,
/// most of a tile would be empty, and products along the keys keep up with memory.
inline constexpr std::int64_t kAttentionTileGroup = 5;
/// Keys, and values, that they take at a time.
inline constexpr std::int64_t kAttentionTileKeys = 32;
inline constexpr std::int64_t kAttentionTileValues = 128;

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

/// The same on tiles, whose query heads fill whole vectors: also keys and values on their way to be
/// operands.
constexpr std::size_t attention_tiles_scratch(std::int64_t group, std::int64_t dim,
                                              std::int64_t v_dim) {
  const std::int64_t lanes = attention_padded(group), dv = attention_padded(v_dim);
  const std::int64_t rows = lanes > kAttentionDecodeRows ? lanes : kAttentionDecodeRows;
  const std::int64_t spare = kAttentionBf16Spare;
  return static_cast<std::size_t>(rows * (2 * dim + 4 * (dv + 2) + 6 * kAttentionPart + 4 * spare) +
                                  kAttentionTileKeys * 2 * dim + kAttentionPart * 2 * lanes +
                                  kAttentionTileValues * 2 * (dv + spare) + 9 * 64);
}

/// Where in a worker's scratch the results of parts begin.
constexpr std::size_t attention_parts_offset(std::int64_t group, std::int64_t dim,
                                             std::int64_t v_dim) {
  std::size_t most = attention_scratch(group, dim, v_dim);
  for (const std::size_t bytes :
       {attention_bf16_scratch(group, dim, v_dim), attention_decode_scratch(group, dim, v_dim),
        attention_tiles_scratch(group, dim, v_dim)}) {
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
