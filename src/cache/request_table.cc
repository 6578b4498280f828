#include "hybridattn/request_table.h"

#include <algorithm>
#include <set>

#include "hybridattn/status_macros.h"
#include "hybridattn/transaction.h"

namespace hybridattn {

RequestTable::RequestTable(HandleAllocator& pages, HandleAllocator* slots, std::int32_t page_size,
                           std::int32_t max_rows, std::int32_t max_pages_per_row)
    : ids_("request row", max_rows), pages_(pages), slots_(slots), page_size_(page_size),
      max_pages_(max_pages_per_row > 0 ? max_pages_per_row : 0),
      rows_(static_cast<std::size_t>(ids_.capacity())) {}

bool RequestTable::is_open(const Handle& row) const { return ids_.live(row); }

Result<Handle> RequestTable::find(std::int32_t index) const {
  if (index >= 0 && static_cast<std::size_t>(index) < rows_.size()) {
    const Handle& id = rows_[static_cast<std::size_t>(index)].id;
    if (ids_.live(id)) return id;
  }
  return error(StatusCode::kFailedPrecondition, "RequestTable::find: row ", index, " is not open");
}

Status RequestTable::check_open(const char* verb, const Handle& row) const {
  if (is_open(row)) return {};
  return error(StatusCode::kFailedPrecondition, "RequestTable::", verb, ": row ", row.index,
               " of generation ", row.generation, " is not open");
}

Result<std::int32_t> RequestTable::pages_lacking(const char* verb, std::int64_t tokens,
                                                 std::size_t held) const {
  if (page_size_ < 1) {
    return invalid_argument("RequestTable::", verb, ": the table's page_size is ", page_size_,
                            ", must be at least 1");
  }
  if (tokens < 0) {
    return invalid_argument("RequestTable::", verb, ": tokens is ", tokens, ", must be at least 0");
  }
  const std::int64_t needed = tokens / page_size_ + (tokens % page_size_ != 0 ? 1 : 0);
  if (needed <= static_cast<std::int64_t>(held)) return 0;
  if (needed > max_pages_) {
    return error(StatusCode::kResourceExhausted, "RequestTable::", verb, ": ", needed,
                 " pages are needed for ", tokens, " tokens, a row has at most ", max_pages_);
  }
  return static_cast<std::int32_t>(needed - static_cast<std::int64_t>(held));
}

Result<Handle> RequestTable::open(std::int64_t tokens) {
  HYBRIDATTN_ASSIGN(const std::int32_t lacking, pages_lacking("open", tokens, 0));
  Transaction transaction;
  Result<std::vector<Handle>> id = transaction.allocate(ids_, 1);
  if (!id.ok()) {
    return error(StatusCode::kResourceExhausted, "RequestTable::open: all ", rows_.size(),
                 " rows are in use");
  }
  Row row;
  row.id = id->front();
  if (slots_ != nullptr) {
    HYBRIDATTN_ASSIGN(const std::vector<Handle> slot, transaction.allocate(*slots_, 1));
    row.slot = slot.front();
  }
  HYBRIDATTN_ASSIGN(row.pages, transaction.allocate(pages_, lacking));
  for (const Handle& page : row.pages) row.page_ids.push_back(page.index);
  HYBRIDATTN_TRY(transaction.commit());
  const Handle opened = row.id;
  at(opened) = std::move(row);
  return opened;
}

Status RequestTable::reserve(const Handle& row, std::int64_t tokens) {
  HYBRIDATTN_TRY(check_open("reserve", row));
  Row& entry = at(row);
  HYBRIDATTN_ASSIGN(const std::int32_t lacking,
                    pages_lacking("reserve", tokens, entry.pages.size()));
  if (lacking == 0) return {};
  HYBRIDATTN_ASSIGN(const std::vector<Handle> more, pages_.allocate(lacking));
  entry.pages.insert(entry.pages.end(), more.begin(), more.end());
  for (const Handle& page : more) entry.page_ids.push_back(page.index);
  return {};
}

Status RequestTable::advance(const Handle& row, std::int32_t tokens) {
  HYBRIDATTN_TRY(check_open("advance", row));
  Row& entry = at(row);
  const std::int64_t room = static_cast<std::int64_t>(entry.pages.size()) * page_size_;
  if (tokens < 0 || entry.computed + tokens > room) {
    return error(StatusCode::kOutOfRange, "RequestTable::advance: row ", row.index, " would hold ",
                 entry.computed + tokens, " tokens, must be in [", entry.computed, ", ", room, "]");
  }
  entry.computed += tokens;
  return {};
}

Status RequestTable::set_position_delta(const Handle& row, std::int64_t delta) {
  HYBRIDATTN_TRY(check_open("set_position_delta", row));
  at(row).position_delta = delta;
  return {};
}

Status RequestTable::close(const Handle& row) {
  HYBRIDATTN_TRY(check_open("close", row));
  Row& entry = at(row);
  Transaction transaction;
  HYBRIDATTN_TRY(transaction.release(pages_, entry.pages));
  if (slots_ != nullptr) {
    HYBRIDATTN_TRY(transaction.release(*slots_, std::span(&entry.slot, 1)));
  }
  HYBRIDATTN_TRY(transaction.release(ids_, std::span(&row, 1)));
  HYBRIDATTN_TRY(transaction.commit());
  entry = Row();
  return {};
}

std::vector<std::int32_t> RequestTable::page_ids(const Handle& row) const {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(max_pages_), kPadIndex);
  if (!is_open(row)) return ids;
  std::copy(at(row).page_ids.begin(), at(row).page_ids.end(), ids.begin());
  return ids;
}

Result<BatchRow> RequestTable::batch_row(const Handle& row, RowKind kind,
                                         std::int32_t new_tokens) const {
  HYBRIDATTN_TRY(check_open("batch_row", row));
  if (new_tokens < 0) {
    return invalid_argument("RequestTable::batch_row: new_tokens is ", new_tokens,
                            ", must be at least 0");
  }
  const Row& entry = at(row);
  const std::int64_t room = static_cast<std::int64_t>(entry.pages.size()) * page_size_;
  if (entry.computed + new_tokens > room) {
    return error(StatusCode::kFailedPrecondition, "RequestTable::batch_row: row ", row.index,
                 " holds ", entry.computed, " tokens and has room for ", room, ", ", new_tokens,
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

std::int32_t RequestTable::num_open() const noexcept { return ids_.capacity() - ids_.num_free(); }

Status RequestTable::check() const {
  HYBRIDATTN_TRY(ids_.check());
  std::set<std::int32_t> slots;
  std::set<std::int32_t> pages;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    if (!ids_.live(row.id)) continue;
    if (slots_ != nullptr && (!slots_->live(row.slot) || !slots.insert(row.slot.index).second)) {
      return error(StatusCode::kInternal, "RequestTable::check: row ", i, " has state slot ",
                   row.slot.index, ", which is not live or is another row's too");
    }
    for (const Handle& page : row.pages) {
      if (!pages_.live(page) || !pages.insert(page.index).second) {
        return error(StatusCode::kInternal, "RequestTable::check: row ", i, " has page ",
                     page.index, ", which is not live or is held twice");
      }
    }
  }
  return {};
}

}  // namespace hybridattn
