// Any sequence of calls on a HandleAllocator and on a RequestTable, against dictionaries that say
// what must come of it.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "hybridattn/handle_allocator.h"
#include "hybridattn/request_table.h"
#include "tests/fuzz/fuzz.h"

namespace hybridattn::fuzz {
namespace {

constexpr int kMaxSteps = 200;

void check_code(const Status& status, StatusCode wanted) {
  FUZZ_CHECK(status.code() == wanted, "got ", status_code_name(status.code()), ", wanted ",
             status_code_name(wanted), ": ", status.message());
  if (!status.ok()) check_refusal(status, {wanted});
}

/// An allocator beside the dictionary of what it must hold.
class Allocator {
 public:
  explicit Allocator(std::int32_t capacity) : real("thing", capacity), capacity_(capacity) {
    for (std::int32_t i = 0; i < capacity; ++i) free_.insert(i);
    // The owner's number, which only handles know.
    if (capacity > 0) {
      owner_ = allocate(1).front().owner;
      release({known.back()});
    }
  }

  std::vector<Handle> allocate(std::int32_t count) {
    const auto got = real.allocate(count);
    if (count < 0 || static_cast<std::size_t>(count) > free_.size()) {
      check_code(got.status(),
                 count < 0 ? StatusCode::kInvalidArgument : StatusCode::kResourceExhausted);
      return {};
    }
    FUZZ_CHECK(got.ok(), got.status().message());
    FUZZ_CHECK(got->size() == static_cast<std::size_t>(count));
    for (const Handle& handle : *got) took(handle);
    return *got;
  }
  /// The table took these: the lowest free ids, none of them live before.
  void took(const Handle& handle) {
    FUZZ_CHECK(handle.index == *free_.begin(), "id ", handle.index, ", lowest ", *free_.begin());
    free_.erase(free_.begin());
    FUZZ_CHECK(handle.generation == ++generations_[handle.index]);
    FUZZ_CHECK(owner_ == 0 || handle.owner == owner_);
    references_[handle.index] = 1;
    known.push_back(handle);
  }
  bool live(const Handle& h) const {
    const auto references = references_.find(h.index);
    return references != references_.end() && h.owner == owner_ &&
           generations_.at(h.index) == h.generation;
  }
  void retain(const Handle& handle) {
    const bool legal = live(handle);
    check_code(real.retain(handle), legal ? StatusCode::kOk : StatusCode::kFailedPrecondition);
    if (legal) ++references_[handle.index];
  }
  void release(const std::vector<Handle>& handles) {
    std::map<std::int32_t, std::int32_t> listed;
    bool legal = true;
    for (const Handle& h : handles) {
      legal = legal && live(h) && ++listed[h.index] <= references_.at(h.index);
    }
    const Status status =
        handles.size() == 1 ? real.release(handles.front()) : real.release(handles);
    check_code(status, legal ? StatusCode::kOk : StatusCode::kFailedPrecondition);
    if (legal) dropped(handles);
  }
  void dropped(const std::vector<Handle>& handles) {
    for (const Handle& h : handles) {
      if (--references_[h.index] > 0) continue;
      references_.erase(h.index);
      free_.insert(h.index);
    }
  }
  void check() const {
    const Status checked = real.check();
    FUZZ_CHECK(checked.ok(), checked.message());
    FUZZ_CHECK(real.capacity() == capacity_);
    FUZZ_CHECK(real.num_free() == static_cast<std::int32_t>(free_.size()));
    for (const Handle& h : known) {
      FUZZ_CHECK(real.live(h) == live(h), "id ", h.index, ", generation ", h.generation);
      FUZZ_CHECK(real.references(h) == (live(h) ? references_.at(h.index) : 0));
    }
  }
  std::size_t num_free() const { return free_.size(); }

  HandleAllocator real;
  std::vector<Handle> known;  // all that ever were

 private:
  std::int32_t capacity_;
  std::uint32_t owner_ = 0;
  std::set<std::int32_t> free_;
  std::map<std::int32_t, std::uint32_t> generations_;
  std::map<std::int32_t, std::int32_t> references_;  // of live ids
};

/// A handle of the past or the present, one of the other allocator, or one made up.
Handle pick(Bytes& bytes, const std::vector<Handle>& own, const std::vector<Handle>& other) {
  const std::int64_t kind = bytes.integer(0, 9);
  if (kind == 0 && !other.empty()) return other[bytes.index(other.size())];
  if (kind <= 1 || own.empty()) {
    Handle made;
    made.index = bytes.int32(-2, 20);
    made.generation = static_cast<std::uint32_t>(bytes.integer(0, 5));
    made.owner = own.empty() ? 0 : own.front().owner;
    return made;
  }
  if (kind <= 4) return own[bytes.index(own.size())];
  const std::size_t recent = std::min<std::size_t>(own.size(), 8);
  return own[own.size() - 1 - bytes.index(recent)];
}

void trace_allocators(Bytes& bytes) {
  Allocator a(bytes.int32(0, 17));
  Allocator b(bytes.int32(0, 5));
  for (int step = 0; step < kMaxSteps && !bytes.empty(); ++step) {
    Allocator& self = bytes.integer(0, 7) == 0 ? b : a;
    Allocator& other = &self == &a ? b : a;
    switch (bytes.integer(0, 3)) {
      case 0: self.allocate(bytes.int32(-1, 8)); break;
      case 1: self.retain(pick(bytes, self.known, other.known)); break;
      case 2: self.release({pick(bytes, self.known, other.known)}); break;
      default: {
        std::vector<Handle> list;
        for (std::int64_t i = bytes.integer(0, 6); i > 0; --i) {
          list.push_back(pick(bytes, self.known, other.known));
        }
        self.release(list);
      }
    }
    a.check();
    b.check();
  }
}

/// A table beside what each of its rows must hold.
class Table {
 public:
  Table(Bytes& bytes)
      : page_size(bytes.int32(1, 9)), max_rows(bytes.int32(0, 5)), max_pages(bytes.int32(0, 6)),
        pages(bytes.int32(0, 15)), slots(bytes.int32(0, 5)), with_slots(bytes.integer(0, 7) != 0),
        real(pages.real, with_slots ? &slots.real : nullptr, page_size, max_rows, max_pages) {}

  void open() {
    const auto opened = real.open();
    if (rows.size() == static_cast<std::size_t>(max_rows) ||
        (with_slots && slots.num_free() == 0)) {
      // A row's number is used up by an attempt that finds no slot: its next owner is newer still.
      check_code(opened.status(), StatusCode::kResourceExhausted);
      return;
    }
    FUZZ_CHECK(opened.ok(), opened.status().message());
    FUZZ_CHECK(rows.count(opened->index) == 0, "row ", opened->index, " is open already");
    FUZZ_CHECK(opened->index >= 0 && opened->index < max_rows);
    for (const Handle& old : known) FUZZ_CHECK(!(old == *opened), "the handle of an older row");
    Row row;
    row.id = *opened;
    known.push_back(*opened);
    if (with_slots) take_slot(row);
    rows[opened->index] = row;
  }
  void reserve(const Handle& handle, std::int64_t tokens) {
    const Status status = real.reserve(handle, tokens);
    Row* row = find(handle);
    if (row == nullptr) return check_code(status, StatusCode::kFailedPrecondition);
    if (tokens < 0) return check_code(status, StatusCode::kInvalidArgument);
    const std::int64_t needed = tokens / page_size + (tokens % page_size == 0 ? 0 : 1);
    const std::int64_t more = needed - static_cast<std::int64_t>(row->pages.size());
    if (needed > max_pages || more > static_cast<std::int64_t>(pages.num_free())) {
      return check_code(status, StatusCode::kResourceExhausted);
    }
    check_code(status, StatusCode::kOk);
    const auto held = real.pages_of(handle);
    for (std::int64_t i = 0; i < more; ++i) {
      row->pages.push_back(handle_of(pages, held[row->pages.size()]));
    }
  }
  void advance(const Handle& handle, std::int32_t tokens) {
    const Status status = real.advance(handle, tokens);
    Row* row = find(handle);
    if (row == nullptr) return check_code(status, StatusCode::kFailedPrecondition);
    const auto room = static_cast<std::int64_t>(row->pages.size()) * page_size;
    const bool fits = tokens >= 0 && row->computed + tokens <= room;
    check_code(status, fits ? StatusCode::kOk : StatusCode::kOutOfRange);
    if (fits) row->computed += tokens;
  }
  void close(const Handle& handle) {
    const Status status = real.close(handle);
    Row* row = find(handle);
    if (row == nullptr) return check_code(status, StatusCode::kFailedPrecondition);
    check_code(status, StatusCode::kOk);
    pages.dropped(row->pages);
    if (with_slots) slots.dropped({row->slot});
    rows.erase(handle.index);
  }
  void batch_row(const Handle& handle, std::int32_t tokens) const {
    const auto made = real.batch_row(handle, RowKind::kPrefill, tokens);
    const auto row = rows.find(handle.index);
    if (row == rows.end() || !(row->second.id == handle)) {
      return check_code(made.status(), StatusCode::kFailedPrecondition);
    }
    const Row& r = row->second;
    if (tokens < 0) return check_code(made.status(), StatusCode::kInvalidArgument);
    if (r.computed + tokens > static_cast<std::int64_t>(r.pages.size()) * page_size) {
      return check_code(made.status(), StatusCode::kFailedPrecondition);
    }
    FUZZ_CHECK(made.ok(), made.status().message());
    FUZZ_CHECK(made->computed == r.computed && made->new_tokens == tokens);
    FUZZ_CHECK(made->slot == (with_slots ? r.slot.index : kPadIndex));
    FUZZ_CHECK(made->pages == ids_of(r));
    FUZZ_CHECK(ForwardBatch::create({*made}).ok());
  }
  void check() const {
    const Status checked = real.check();
    FUZZ_CHECK(checked.ok(), checked.message());
    pages.check();
    slots.check();
    FUZZ_CHECK(real.num_open() == static_cast<std::int32_t>(rows.size()));
    for (std::int32_t i = -1; i <= max_rows; ++i) {
      const auto found = real.find(i);
      FUZZ_CHECK(found.ok() == (rows.count(i) != 0), "row ", i);
      if (found.ok()) FUZZ_CHECK(*found == rows.at(i).id);
    }
    for (const Handle& handle : known) check_row(handle);
  }

  const std::int32_t page_size;
  const std::int32_t max_rows;
  const std::int32_t max_pages;
  Allocator pages;
  Allocator slots;
  const bool with_slots;
  RequestTable real;
  std::vector<Handle> known;

 private:
  struct Row {
    Handle id;
    Handle slot;
    std::vector<Handle> pages;
    std::int64_t computed = 0;
  };

  Row* find(const Handle& handle) {
    const auto row = rows.find(handle.index);
    return row != rows.end() && row->second.id == handle ? &row->second : nullptr;
  }
  /// The table hands out ids alone; the next generation of the id is what it must have taken.
  static Handle handle_of(Allocator& allocator, std::int32_t index) {
    Handle taken{index, 1, allocator.known.front().owner};
    for (const Handle& h : allocator.known) {
      if (h.index == index) taken.generation = std::max(taken.generation, h.generation + 1);
    }
    allocator.took(taken);
    return taken;
  }
  void take_slot(Row& row) { row.slot = handle_of(slots, real.slot_id(row.id)); }
  static std::vector<std::int32_t> ids_of(const Row& row) {
    std::vector<std::int32_t> ids;
    for (const Handle& page : row.pages) ids.push_back(page.index);
    return ids;
  }
  void check_row(const Handle& handle) const {
    const auto row = rows.find(handle.index);
    const bool open = row != rows.end() && row->second.id == handle;
    FUZZ_CHECK(real.is_open(handle) == open);
    std::vector<std::int32_t> ids;
    if (open) {
      FUZZ_CHECK(real.computed(handle) == row->second.computed);
      ids = ids_of(row->second);
      const auto held = real.pages_of(handle);
      FUZZ_CHECK(std::equal(held.begin(), held.end(), ids.begin(), ids.end()));
    }
    ids.resize(static_cast<std::size_t>(max_pages), kPadIndex);
    FUZZ_CHECK(real.page_ids(handle) == ids, "pages or a tail that is no pad");
  }

  std::map<std::int32_t, Row> rows;
};

void trace_table(Bytes& bytes) {
  Table table(bytes);
  std::vector<Handle> outside;  // pages that others hold
  for (int step = 0; step < kMaxSteps && !bytes.empty(); ++step) {
    const std::int64_t verb = bytes.integer(0, 7);
    const Handle row = verb >= 2 && verb <= 5 ? pick(bytes, table.known, outside) : Handle{};
    switch (verb) {
      case 0:
      case 1: table.open(); break;
      case 2: table.reserve(row, bytes.integer(-1, 60)); break;
      case 3: table.advance(row, bytes.int32(-1, 20)); break;
      case 4: table.close(row); break;
      case 5: table.batch_row(row, bytes.int32(-1, 20)); break;
      case 6:
        for (const Handle& h : table.pages.allocate(bytes.int32(0, 3))) outside.push_back(h);
        break;
      default:
        if (outside.empty()) break;
        table.pages.release({outside.back()});
        outside.pop_back();
    }
    table.check();
  }
}

}  // namespace
}  // namespace hybridattn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  hybridattn::fuzz::Bytes bytes(data, size);
  if (bytes.flag()) {
    hybridattn::fuzz::trace_table(bytes);
  } else {
    hybridattn::fuzz::trace_allocators(bytes);
  }
  return 0;
}
