#include "src/ops/place_rows.h"

#include <algorithm>
#include <cstring>

#include "hybridattn/ops/gdn_prefill.h"
#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"

namespace hybridattn::ops {
namespace {

constexpr int kRowArrays = 5;  // start, length, slot, computed, first_chunk

std::int32_t chunks_of(std::int32_t length) { return (length + kGdnChunk - 1) / kGdnChunk; }

constexpr int kSegmentEntries = kGdnMaxSegments + 1;

/// Segments of all rows where each has at most `each` chunks.
std::int32_t count_segments(const RaggedRows& rows, std::int32_t each) {
  std::int32_t segments = 0;
  for (std::int32_t r = 0; r < rows.count; ++r) {
    segments += (chunks_of(rows.length[r]) + each - 1) / each;
  }
  return segments;
}

/// The least number of chunks in a segment with which all rows make at most `n`; `longest` is
/// enough.
std::int32_t least_segment(const RaggedRows& rows, std::int32_t n, std::int32_t longest) {
  std::int32_t least = 1, enough = longest;
  while (least < enough) {
    const std::int32_t middle = least + (enough - least) / 2;
    if (count_segments(rows, middle) <= n) {
      enough = middle;
    } else {
      least = middle + 1;
    }
  }
  return enough;
}

/// DeviceRowTables::segment_chunks.
void write_segment_chunks(const RaggedRows& rows, std::int32_t* out) {
  std::int32_t longest = 0, live = 0;
  for (std::int32_t r = 0; r < rows.count; ++r) {
    longest = std::max(longest, chunks_of(rows.length[r]));
    live += rows.length[r] > 0 ? 1 : 0;
  }
  out[0] = longest;
  for (std::int32_t n = 1; n <= kGdnMaxSegments; ++n) {
    out[n] = longest == 0 || live > n ? 0 : least_segment(rows, n, longest);
  }
}

core::UploadRing& uploads(Context& context) { return *context.impl().uploads; }

}  // namespace

std::int64_t count_chunks(const RaggedRows& rows) noexcept {
  std::int64_t chunks = 0;
  for (std::int32_t r = 0; r < rows.count; ++r) chunks += chunks_of(rows.length[r]);
  return chunks;
}

std::size_t RowBlock::bytes() const noexcept {
  const std::size_t elements = kRowArrays * static_cast<std::size_t>(count) +
                               static_cast<std::size_t>(chunks) + kSegmentEntries;
  return elements * sizeof(std::int32_t);
}

void RowBlock::write(const RaggedRows& rows, std::byte* host) const noexcept {
  auto* next = reinterpret_cast<std::int32_t*>(host);
  write_segment_chunks(rows, next);
  next += kSegmentEntries;
  for (const std::int32_t* array : {rows.start, rows.length, rows.slot, rows.computed}) {
    for (std::int32_t r = 0; r < rows.count; ++r) next[r] = array[r];
    for (std::int32_t r = rows.count; r < count; ++r) next[r] = 0;
    next += count;
  }
  std::int32_t* chunk_row = next + count;
  std::int32_t chunk = 0;
  for (std::int32_t r = 0; r < count; ++r) {
    next[r] = chunk;
    if (r >= rows.count) continue;
    for (std::int32_t c = chunks_of(rows.length[r]); c > 0; --c) chunk_row[chunk++] = r;
  }
  for (; chunk < chunks; ++chunk) chunk_row[chunk] = -1;
}

DeviceRowTables RowBlock::tables(const std::byte* device) const noexcept {
  const auto* next = reinterpret_cast<const std::int32_t*>(device);
  DeviceRowTables tables;
  tables.segment_chunks = next;
  next += kSegmentEntries;
  const auto take = [&] {
    const std::int32_t* taken = next;
    next += count;
    return taken;
  };
  tables.start = take();
  tables.length = take();
  tables.slot = take();
  tables.computed = take();
  tables.first_chunk = take();
  tables.chunk_row = next;
  tables.count = count;
  tables.chunks = chunks;
  return tables;
}

Status place_rows(Context& context, RaggedRows& rows, DeviceRowTables& tables) {
  if (context.device() == DeviceType::kCpu || rows.device != nullptr) return {};
  const RowBlock block{rows.count, static_cast<std::int32_t>(count_chunks(rows))};
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, uploads(context).take(block.bytes()));
  block.write(rows, piece.host);
  HYBRIDATTN_TRY(uploads(context).send(piece));
  tables = block.tables(piece.device);
  rows.device = &tables;
  return {};
}

Result<const void*> upload(Context& context, const void* data, std::size_t bytes) {
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, uploads(context).take(bytes));
  std::memcpy(piece.host, data, bytes);
  HYBRIDATTN_TRY(uploads(context).send(piece));
  return static_cast<const void*>(piece.device);
}

Status place_verify_rows(Context& context, const RaggedRows& rows, std::int64_t tokens,
                         VerifyRows& verify) {
  if (context.device() == DeviceType::kCpu || verify.device_kept != nullptr) return {};
  HYBRIDATTN_ASSIGN(verify.device_kept, place_array(context, verify.kept, rows.count));
  HYBRIDATTN_ASSIGN(verify.device_parents, place_array(context, verify.parents, tokens));
  return {};
}

}  // namespace hybridattn::ops
