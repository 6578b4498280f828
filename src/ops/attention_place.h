// Rows of attention and their work where the kernels of an accelerator read them.
#pragma once

#include "src/ops/attention_plan.h"

namespace hybridattn::ops {

/// How they lie in one block. What is not used holds nothing to do.
struct AttentionBlock {
  std::int64_t rows, queries, few, many, joins, part_rows;
  std::int64_t parents;  // tokens of the stream; 0: no trees
  std::int32_t many_rows;
  std::int64_t pages;  // behind all others, as many as there are; 0: dense keys
  std::int64_t arrivals = 0;
  bool shares = false;  // whether joins may have shared parts

  std::size_t bytes() const noexcept;
  /// What `write` writes for these rows.
  std::size_t bytes_of(const AttentionRows& from) const noexcept;
  bool holds(const AttentionSchedule& schedule) const noexcept;
  /// Writes all arrays and of the pages those that `from` lists.
  void write(const AttentionRows& from, const AttentionSchedule& schedule,
             std::byte* host) const noexcept;
  AttentionTables tables(std::byte* device) const noexcept;
};

/// Lets the tables say what there is in place of what there is room for.
void trim_tables(const AttentionSchedule& schedule, AttentionTables& tables) noexcept;

/// Whether one of the rows is a tree.
bool has_tree(const AttentionRows& rows) noexcept;

/// Uploads rows and a schedule for them, for the kernels of one call. `tokens`: length of the
/// stream of queries. Errors: resource_exhausted, device_error.
Status place_attention_rows(Context& context, const AttentionRows& rows, std::int64_t tokens,
                            const AttentionSchedule& schedule, AttentionTables& tables);

}  // namespace hybridattn::ops

namespace hybridattn {

struct PlacedAttentionRows {
  ops::AttentionTables tables;
  AttentionHeads heads;
  const Context* context;
  bool captured;
  // Of what the rows name, so that a call is checked without a walk over them.
  std::int64_t end_token;  // behind the last
  std::int64_t end_page;   // behind the last page, or key of dense ones
  // No later write names a page, or key of dense ones, from here on; 0: that is not known.
  std::int64_t cache_pages;
};

}  // namespace hybridattn
