// How softmax attention is cut into blocks of work for the kernels of an accelerator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hybridattn/context.h"
#include "hybridattn/device_attention_rows.h"
#include "src/ops/attention_params.h"

namespace hybridattn::ops {

/// Keys are cut at multiples of this, counted from a row's first key.
inline constexpr std::int32_t kAttentionCut = 128;
/// Where nothing but the row may decide (batch_invariant), all tiles of keys of every kernel begin
/// at multiples of this, counted from the part's first key.
inline constexpr std::int32_t kAttentionFixedCut = 640;
/// Keys of one part of few and of many query rows there.
inline constexpr std::int32_t kAttentionFixedPart = 512;
inline constexpr std::int32_t kAttentionFixedPartOfMany = 4096;

/// Shared memory that a block of the kernel for few rows has, at least.
inline constexpr std::size_t kAttentionFewBytes = 106 * 1024;

/// What decides how rows are cut.
struct AttentionCut {
  std::int64_t group;     ///< query heads of a key head
  std::int64_t kv_heads;  ///< blocks of one piece of work
  std::int64_t slots;     ///< blocks of the kernel for few rows that run at once
  std::int64_t slots_of_many;
  std::int32_t many_rows;  ///< query rows of a tile of the kernel for many
  bool causal;
  std::int32_t window;
  bool fixed = false;       ///< cut by the row alone
  bool one_kernel = false;  ///< every row by the kernel for many
  /// Rows that begin with the same pages of so many keys read them once; 0: none does. Not with
  /// `fixed`.
  std::int32_t shared_page_size = 0;
  std::int32_t least_saved = 0;  ///< keys that each of the slots must read less for that
  // Tiles of a key head for which it was chosen who adds up their parts, once for all steps; -1:
  // those of the step at hand.
  std::int64_t few_tiles = -1, many_tiles = -1;

  /// Whether the last block of a tile adds up its parts, of `tiles` tiles: else a kernel of its own
  /// does, which has the whole card for it. It is worth its launch where parts are many.
  bool last_joins(bool many, std::int64_t tiles) const;
  /// Tiles of many that a row has at most if its keys are cut at fixed places. Rows of more fill
  /// the card by themselves, and their parts would fill memory. Where queries are to have the same
  /// bits however they are cut into rows, all rows are.
  std::int64_t most_tiles_cut() const;
  bool leaves_whole(std::int64_t queries) const;
};

/// How the context's accelerator and options want rows cut.
AttentionCut attention_cut(Context& context, const AttentionHeads& heads);

/// The most pieces of work and parts that rows may be cut into.
struct AttentionMost {
  std::int64_t few, many, joins, part_rows;
  std::int64_t arrivals;     ///< counters of parts that are written
  std::int64_t shared_rows;  ///< rows that may share what they read
};

/// A tile of query rows and its keys, from the cut at or before the first to the last.
struct AttentionTile {
  std::int32_t row, first, begin, end;
  std::int32_t group =
      -1;  ///< of rows, whose `keys` are those of the tile (`shared`) or lie before
  bool shared = false;
};

/// Rows [row, row + rows) whose first keys are the same, and seen by all their queries, which
/// follow one another in the stream.
struct AttentionGroup {
  std::int32_t row, rows;
  std::int32_t tokens;  ///< queries of all rows
  std::int32_t keys;    ///< a multiple of kAttentionCut
  // Where the parts of its tiles lie, as in AttentionJoin.
  std::int32_t part = 0, parts = 0, tile = 0;
};

/// Blocks of work of one step, longest first.
struct AttentionSchedule {
  std::vector<AttentionWork> few, many;
  std::vector<AttentionJoin> joins;  ///< those of tiles of many rows first
  std::int64_t joins_of_many = 0;
  // While it is made.
  std::vector<AttentionTile> tiles;
  std::vector<AttentionGroup> groups;
  std::vector<std::int32_t> group_of;  ///< of each row, -1: none; empty: of no row
  std::int64_t part_rows = 0;          ///< query rows of all parts of one key head
  std::int64_t arrivals = 0;           ///< counters of parts that are written
  std::int32_t many_rows = 0;          ///< as the cut has it

  void clear();
  void reserve(const AttentionMost& most);
};

/// Chooses who adds up parts, for all steps within the limits.
void choose_joins(const AttentionLimits& limits, AttentionCut& cut);

AttentionMost most_attention_work(const AttentionCut& cut, const AttentionLimits& limits);

/// The first of a row's pages with a key that one of its queries sees: an engine may have freed
/// those before it.
std::int64_t first_page_read(const AttentionRows& rows, const AttentionHeads& heads,
                             std::int32_t row);

/// The fewest keys that are worth sharing: what shares them is joined with what follows.
inline constexpr std::int32_t kAttentionLeastShared = 512;

/// Fills `groups` and `group_of`.
void find_shared_prefixes(const AttentionRows& rows, const AttentionCut& cut,
                          AttentionSchedule& schedule);

/// Cuts the rows. Allocates where the schedule has no room yet.
void schedule_attention(const AttentionRows& rows, const AttentionCut& cut,
                        AttentionSchedule& schedule);

}  // namespace hybridattn::ops
