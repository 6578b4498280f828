// Which steps the backends must take, written down a second time from their documentation.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hybridattn/forward_batch.h"
#include "tests/support/hybrid_world.h"

namespace hybridattn::fuzz {

inline bool fits(const GraphShape& has, const GraphShape& room) {
  return has.prefill_rows <= room.prefill_rows && has.decode_rows <= room.decode_rows &&
         has.verify_rows <= room.verify_rows && has.tokens <= room.tokens &&
         has.pages <= room.pages;
}

/// The rules of ForwardBatch and of both backends.
class Rules {
 public:
  explicit Rules(const testing::WorldOptions& world) : world_(world) {}

  bool allow(const std::vector<BatchRow>& rows) {
    std::int64_t tokens = 0;
    std::int64_t drafted = 0;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const BatchRow& row = rows[r];
      if (!allow_row(row)) return false;
      tokens += row.new_tokens;
      if (row.kind == RowKind::kVerify) drafted += row.new_tokens;
      if (row.slot >= 0 && !slots_.insert(row.slot).second) return false;
      if (row.kind != RowKind::kPad && !allow_pages(row, r)) return false;
    }
    return tokens <= INT32_MAX && drafted <= world_.kept;
  }

 private:
  bool allow_row(const BatchRow& row) const {
    if (row.kind > RowKind::kPad || row.new_tokens < 0 || row.computed < 0) return false;
    if (row.computed + row.new_tokens > INT32_MAX) return false;
    if (row.kind == RowKind::kPad) return row.slot == kPadIndex && row.pages.empty() && chain(row);
    if (row.slot < 0 || row.slot >= world_.slots) return false;
    if (row.kind == RowKind::kDecode && row.new_tokens != 1) return false;
    return chain(row) || (row.kind == RowKind::kVerify && is_tree(row));
  }
  static bool chain(const BatchRow& row) { return row.parents.empty(); }
  static bool is_tree(const BatchRow& row) {
    if (row.parents.size() != static_cast<std::size_t>(row.new_tokens)) return false;
    if (row.new_tokens > 64) return false;
    for (std::int32_t i = 0; i < row.new_tokens; ++i) {
      const std::int32_t parent = row.parents[static_cast<std::size_t>(i)];
      if (parent < -1 || parent >= i) return false;
    }
    return true;
  }
  /// Enough of them, all there; one that is written belongs to nobody else, nor twice to the row.
  bool allow_pages(const BatchRow& row, std::size_t r) {
    const std::int64_t size = world_.page_size;
    const std::int64_t needed = (row.computed + row.new_tokens + size - 1) / size;
    if (static_cast<std::int64_t>(row.pages.size()) < needed) return false;
    for (std::int64_t i = 0; i < needed; ++i) {
      const std::int32_t page = row.pages[static_cast<std::size_t>(i)];
      if (page < 0 || page >= world_.pages) return false;
      const bool written = row.new_tokens > 0 && (i + 1) * size > row.computed;
      const auto [use, first] = pages_.emplace(page, std::pair(r, written));
      if (!first && (written || use->second.second)) return false;
    }
    return true;
  }

  const testing::WorldOptions& world_;
  std::set<std::int32_t> slots_;
  std::map<std::int32_t, std::pair<std::size_t, bool>> pages_;
};

inline std::string text_of(const std::vector<BatchRow>& rows) {
  std::string text;
  for (const BatchRow& row : rows) {
    text += concat(text.empty() ? "" : "; ", row_kind_name(row.kind), " slot ", row.slot,
                   " computed ", row.computed, " new ", row.new_tokens, " pages");
    for (const std::int32_t page : row.pages) text += concat(" ", page);
  }
  return text;
}

}  // namespace hybridattn::fuzz
