#include "hybridattn/request_table.h"

#include <algorithm>
#include <set>

#include "hybridattn/status_macros.h"

namespace hybridattn {

RequestTable::RequestTable(HandleAllocator& pages, HandleAllocator* slots, std::int32_t page_size,
                           std::int32_t max_rows, std::int32_t max_pages_per_row)
    : pages_(pages), slots_(slots), page_size_(page_size), max_pages_(max_pages_per_row),
      rows_(static_cast<std::size_t>(max_rows)) {}

bool RequestTable::is_open(std::int32_t row) const noexcept {
  return row >= 0 && static_cast<std::size_t>(row) < rows_.size() && at(row).open;
}

Status RequestTable::check_open(const char* verb, std::int32_t row) const {
  if (is_open(row)) return {};
  return error(StatusCode::kFailedPrecondition, "RequestTable::", verb, ": row ", row,
               " is not open");
}

Result<std::int32_t> RequestTable::open() {
  std::size_t index = 0;
  while (index < rows_.size() && rows_[index].open) ++index;
  if (index == rows_.size()) {
    return error(StatusCode::kResourceExhausted, "RequestTable::open: all ", rows_.size(),
                 " rows are in use");
  }
  Row row;
  row.open = true;
  if (slots_ != nullptr) {
    HYBRIDATTN_ASSIGN(const std::vector<Handle> slot, slots_->allocate(1));
    row.slot = slot[0];
  }
  rows_[index] = std::move(row);
  return static_cast<std::int32_t>(index);
}

Status RequestTable::reserve(std::int32_t row, std::int64_t tokens) {
  HYBRIDATTN_TRY(check_open("reserve", row));
  Row& entry = rows_[static_cast<std::size_t>(row)];
  if (tokens < 0) {
    return invalid_argument("RequestTable::reserve: tokens is ", tokens, ", must be at least 0");
  }
  const std::int64_t needed = tokens / page_size_ + (tokens % page_size_ != 0 ? 1 : 0);
  const auto held = static_cast<std::int64_t>(entry.pages.size());
  if (needed <= held) return {};
  if (needed > max_pages_) {
    return error(StatusCode::kResourceExhausted, "RequestTable::reserve: row ", row, " needs ",
                 needed, " pages for ", tokens, " tokens, a row has at most ", max_pages_);
  }
  HYBRIDATTN_ASSIGN(const std::vector<Handle> more,
                    pages_.allocate(static_cast<std::int32_t>(needed - held)));
  entry.pages.insert(entry.pages.end(), more.begin(), more.end());
  for (const Handle& page : more) entry.page_ids.push_back(page.index);
  return {};
}

Status RequestTable::advance(std::int32_t row, std::int32_t tokens) {
  HYBRIDATTN_TRY(check_open("advance", row));
  Row& entry = rows_[static_cast<std::size_t>(row)];
  const std::int64_t room = static_cast<std::int64_t>(entry.pages.size()) * page_size_;
  if (tokens < 0 || entry.computed + tokens > room) {
    return error(StatusCode::kOutOfRange, "RequestTable::advance: row ", row, " would hold ",
                 entry.computed + tokens, " tokens, must be in [", entry.computed, ", ", room, "]");
  }
  entry.computed += tokens;
  return {};
}

Status RequestTable::close(std::int32_t row) {
  HYBRIDATTN_TRY(check_open("close", row));
  Row& entry = rows_[static_cast<std::size_t>(row)];
  HYBRIDATTN_TRY(pages_.release(entry.pages));
  if (slots_ != nullptr) HYBRIDATTN_TRY(slots_->release(entry.slot));
  entry = Row();
  return {};
}

std::vector<std::int32_t> RequestTable::page_ids(std::int32_t row) const {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(max_pages_), kPadIndex);
  if (!is_open(row)) return ids;
  std::copy(at(row).page_ids.begin(), at(row).page_ids.end(), ids.begin());
  return ids;
}

Result<BatchRow> RequestTable::batch_row(std::int32_t row, RowKind kind,
                                         std::int32_t new_tokens) const {
  HYBRIDATTN_TRY(check_open("batch_row", row));
  const Row& entry = at(row);
  const std::int64_t room = static_cast<std::int64_t>(entry.pages.size()) * page_size_;
  if (entry.computed + new_tokens > room) {
    return error(StatusCode::kFailedPrecondition, "RequestTable::batch_row: row ", row, " holds ",
                 entry.computed, " tokens and has room for ", room, ", ", new_tokens,
                 " more are wanted; reserve first");
  }
  BatchRow out;
  out.kind = kind;
  out.slot = slots_ != nullptr ? entry.slot.index : kPadIndex;
  out.computed = entry.computed;
  out.new_tokens = new_tokens;
  out.pages = entry.page_ids;
  return out;
}

std::int32_t RequestTable::num_open() const noexcept {
  std::int32_t count = 0;
  for (const Row& row : rows_) count += row.open ? 1 : 0;
  return count;
}

Status RequestTable::check() const {
  std::set<std::int32_t> slots;
  std::set<std::int32_t> pages;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    if (!row.open) continue;
    if (slots_ != nullptr && (!slots_->live(row.slot) || !slots.insert(row.slot.index).second)) {
      return error(StatusCode::kInternal, "RequestTable::check: row ", i, " has state slot ",
                   row.slot.index, ", which is not live or is another row's too");
    }
    for (const Handle& page : row.pages) {
      if (!pages_.live(page) || !pages.insert(page.index).second) {
        return error(StatusCode::kInternal, "RequestTable::check: row ", i, " has page ", page.index,
                     ", which is not live or is held twice");
      }
    }
  }
  return {};
}

}  // namespace hybridattn
