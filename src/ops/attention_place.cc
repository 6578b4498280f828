#include "src/ops/attention_place.h"

#include <algorithm>
#include <cstring>

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"

namespace hybridattn::ops {
namespace {

constexpr std::int64_t kCounts = 4;

/// Arrays one after the other, each with room for so many elements.
class Writer {
 public:
  explicit Writer(std::byte* at) : at_(at) {}
  template <class T>
  T* take(std::int64_t room) {
    auto* to = reinterpret_cast<T*>(at_);
    at_ += static_cast<std::size_t>(room) * sizeof(T);
    return to;
  }
  template <class T>
  T* add(const T* data, std::int64_t count, std::int64_t room) {
    T* to = take<T>(room);
    if (count > 0) std::memcpy(to, data, static_cast<std::size_t>(count) * sizeof(T));
    return to + count;
  }

 private:
  std::byte* at_;
};

class Reader {
 public:
  explicit Reader(std::byte* at) : at_(at) {}
  template <class T>
  void take(T*& array, std::int64_t room) {
    array = reinterpret_cast<T*>(at_);
    at_ += static_cast<std::size_t>(room) * sizeof(T);
  }

 private:
  std::byte* at_;
};

template <class T>
std::int64_t length_of(const std::vector<T>& list) {
  return static_cast<std::int64_t>(list.size());
}

}  // namespace

std::size_t AttentionBlock::bytes() const noexcept {
  const std::int64_t words = 4 * rows + 1 + kCounts + arrivals + parents + pages;
  return static_cast<std::size_t>(rows) * sizeof(std::int64_t) +
         static_cast<std::size_t>(words) * sizeof(std::int32_t) +
         static_cast<std::size_t>(few + many) * sizeof(AttentionWork) +
         static_cast<std::size_t>(joins) * sizeof(AttentionJoin);
}

std::size_t AttentionBlock::bytes_of(const AttentionRows& from) const noexcept {
  const std::int64_t listed = from.pages == nullptr ? 0 : from.num_pages_listed;
  return bytes() - static_cast<std::size_t>(pages - listed) * sizeof(std::int32_t);
}

bool AttentionBlock::holds(const AttentionSchedule& schedule) const noexcept {
  return length_of(schedule.few) <= few && length_of(schedule.many) <= many &&
         length_of(schedule.joins) <= joins && schedule.part_rows <= part_rows &&
         schedule.arrivals <= arrivals;
}

void AttentionBlock::write(const AttentionRows& from, const AttentionSchedule& schedule,
                           std::byte* host) const noexcept {
  Writer writer(host);
  std::fill_n(writer.add(from.kv_start, from.count, rows), rows - from.count, 0);
  // Works and joins lie at multiples of eight bytes.
  writer.add(schedule.few.data(), length_of(schedule.few), few);
  writer.add(schedule.many.data(), length_of(schedule.many), many);
  writer.add(schedule.joins.data(), length_of(schedule.joins), joins);
  for (const std::int32_t* array : {from.q_start, from.q_length, from.kv_length}) {
    std::fill_n(writer.add(array, from.count, rows), rows - from.count, 0);
  }
  auto* first_query = writer.take<std::int32_t>(rows + 1);
  first_query[0] = 0;
  std::int64_t named = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    first_query[r + 1] = first_query[r] + (r < from.count ? from.q_length[r] : 0);
    if (r >= from.count) continue;
    named = std::max<std::int64_t>(named, std::int64_t{from.q_start[r]} + from.q_length[r]);
  }
  auto* counts = writer.take<std::int32_t>(kCounts);
  counts[0] = static_cast<std::int32_t>(schedule.few.size());
  counts[1] = static_cast<std::int32_t>(schedule.many.size());
  counts[2] = static_cast<std::int32_t>(schedule.joins.size());
  counts[3] = static_cast<std::int32_t>(schedule.joins_of_many);
  std::fill_n(writer.take<std::int32_t>(arrivals), schedule.arrivals, 0);
  if (parents > 0) {
    const std::int64_t count = from.parents == nullptr ? 0 : named;
    std::fill_n(writer.add(from.parents, count, parents), parents - count, kChain);
  }
  if (from.pages != nullptr) {
    writer.add(from.pages, from.num_pages_listed, from.num_pages_listed);
  }
}

AttentionTables AttentionBlock::tables(std::byte* device) const noexcept {
  AttentionTables tables{};
  Reader reader(device);
  reader.take(tables.kv_start, rows);
  reader.take(tables.few, few);
  reader.take(tables.many, many);
  reader.take(tables.joins, joins);
  reader.take(tables.q_start, rows);
  reader.take(tables.q_length, rows);
  reader.take(tables.kv_length, rows);
  reader.take(tables.first_query, rows + 1);
  reader.take(tables.counts, kCounts);
  reader.take(tables.arrived, arrivals);
  reader.take(tables.parents, parents);
  reader.take(tables.pages, pages);
  if (parents == 0) tables.parents = nullptr;
  if (pages == 0) tables.pages = nullptr;
  tables.rows = static_cast<std::int32_t>(rows);
  tables.queries = static_cast<std::int32_t>(queries);
  tables.num_few = static_cast<std::int32_t>(few);
  tables.num_many = static_cast<std::int32_t>(many);
  tables.num_joins = static_cast<std::int32_t>(joins);
  tables.many_rows = many_rows;
  tables.part_rows = part_rows;
  tables.shares = shares;
  return tables;
}

void trim_tables(const AttentionSchedule& schedule, AttentionTables& tables) noexcept {
  tables.num_few = static_cast<std::int32_t>(schedule.few.size());
  tables.num_many = static_cast<std::int32_t>(schedule.many.size());
  tables.num_joins = static_cast<std::int32_t>(schedule.joins.size());
  tables.part_rows = schedule.part_rows;
}

bool has_tree(const AttentionRows& rows) noexcept {
  for (std::int32_t r = 0; r < rows.count && rows.parents != nullptr; ++r) {
    if (rows.q_length[r] > 0 && rows.parents[rows.q_start[r]] != kChain) return true;
  }
  return false;
}

Status place_attention_rows(Context& context, const AttentionRows& rows, std::int64_t tokens,
                            const AttentionSchedule& schedule, AttentionTables& tables) {
  std::int64_t queries = 0;
  for (std::int32_t r = 0; r < rows.count; ++r) queries += rows.q_length[r];
  const AttentionBlock block{rows.count, queries, length_of(schedule.few), length_of(schedule.many),
                             length_of(schedule.joins), schedule.part_rows,
                             has_tree(rows) ? tokens : 0, schedule.many_rows,
                             // One more: an empty list is not the same as dense keys.
                             rows.pages == nullptr ? 0 : rows.num_pages_listed + 1,
                             schedule.arrivals};
  core::UploadRing& ring = *context.impl().uploads;
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, ring.take(block.bytes()));
  block.write(rows, schedule, piece.host);
  tables = block.tables(piece.device);
  return ring.send(piece);
}

}  // namespace hybridattn::ops
