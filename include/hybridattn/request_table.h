// RequestTable: which slot and which pages belong to which running request, and how far it is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hybridattn/forward_batch.h"
#include "hybridattn/handle_allocator.h"

namespace hybridattn {

/// A table of rows with a state slot, a list of pages and the count of computed tokens. It is the
/// one owner of these handles: what it was given it releases, once. A row is a handle too: what
/// comes late for a request that has ended meets its generation and changes nothing. Unused tails
/// of a row are pad, never a former owner's pages.
class HYBRIDATTN_API RequestTable {
 public:
  /// The allocators are borrowed and must outlive the table; `slots` is nullptr for models without
  /// GDN layers. A table with a page size or a number of rows below 1 opens no row.
  RequestTable(HandleAllocator& pages, HandleAllocator* slots, std::int32_t page_size,
               std::int32_t max_rows, std::int32_t max_pages_per_row);

  /// A free row with a state slot of its own and pages for `tokens` tokens. Errors:
  /// resource_exhausted (rows, slots, pages, the row's limit), invalid_argument; nothing is held
  /// then.
  Result<Handle> open(std::int64_t tokens = 0);
  /// Makes room for `tokens` tokens in all. Errors: resource_exhausted (pages, or the row's limit),
  /// invalid_argument; the row is unchanged then. Here and below: failed_precondition for a row
  /// that is not open, or not any more.
  Status reserve(const Handle& row, std::int64_t tokens);
  /// Counts `tokens` more as computed: they are in the pages and in the state now. Errors:
  /// out_of_range past the reserved room.
  Status advance(const Handle& row, std::int32_t tokens);
  /// Releases everything the row holds and frees the row, or on an error nothing.
  Status close(const Handle& row);

  bool is_open(const Handle& row) const;
  /// The row with this index, as engines name rows in tensors. Errors: failed_precondition.
  Result<Handle> find(std::int32_t index) const;
  /// What decode positions have on top of the count of tokens, for prompts with pictures (see
  /// mrope_positions.h); 0 from open on. Errors: failed_precondition.
  Status set_position_delta(const Handle& row, std::int64_t delta);
  /// Of an open row.
  std::int64_t position_delta(const Handle& row) const { return at(row).position_delta; }
  /// Of an open row.
  std::int64_t computed(const Handle& row) const { return at(row).computed; }
  /// State slot of an open row; kPadIndex in a table without slots.
  std::int32_t slot_id(const Handle& row) const { return slots_ ? at(row).slot.index : kPadIndex; }
  /// Tokens that the pages of an open row hold.
  std::int64_t room(const Handle& row) const {
    return static_cast<std::int64_t>(at(row).pages.size()) * page_size_;
  }
  /// Page ids of an open row, valid until the row is reserved for or closed.
  std::span<const std::int32_t> pages_of(const Handle& row) const { return at(row).page_ids; }
  /// Page ids of the row, then pad up to the row's limit.
  std::vector<std::int32_t> page_ids(const Handle& row) const;
  std::int32_t max_pages_per_row() const noexcept { return max_pages_; }
  /// The row as a batch sees it: `new_tokens` more than are computed. Errors: invalid_argument;
  /// failed_precondition for a row that has no room for them.
  Result<BatchRow> batch_row(const Handle& row, RowKind kind, std::int32_t new_tokens) const;
  std::int32_t num_open() const noexcept;
  /// Every held handle is live and held once. Errors: internal.
  Status check() const;

 private:
  struct Row {
    Handle id;
    Handle slot;
    std::vector<Handle> pages;
    std::vector<std::int32_t> page_ids;  // of `pages`
    std::int64_t computed = 0;
    std::int64_t position_delta = 0;
  };
  const Row& at(const Handle& row) const { return rows_[static_cast<std::size_t>(row.index)]; }
  Row& at(const Handle& row) { return rows_[static_cast<std::size_t>(row.index)]; }
  Status check_open(const char* verb, const Handle& row) const;
  /// Pages that a row with `held` of them lacks for `tokens` tokens.
  Result<std::int32_t> pages_lacking(const char* verb, std::int64_t tokens, std::size_t held) const;

  HandleAllocator ids_;
  HandleAllocator& pages_;
  HandleAllocator* slots_;
  std::int32_t page_size_;
  std::int32_t max_pages_;
  std::vector<Row> rows_;
};

}  // namespace hybridattn
