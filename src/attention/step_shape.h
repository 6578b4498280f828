// How rows fill a GraphShape, once for the batch that counts them and the plans that place them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "hybridattn/attention_backend.h"
#include "hybridattn/forward_batch.h"
#include "hybridattn/ops/gdn_prefill.h"

namespace hybridattn::backend {

/// A row of no token and no request, which takes no place anywhere.
constexpr bool is_empty_pad(RowKind kind, std::int32_t new_tokens) {
  return kind == RowKind::kPad && new_tokens == 0;
}

/// Whether a row takes a decode row's place: one token, of decode or of padding.
constexpr bool takes_a_step(RowKind kind, std::int32_t new_tokens) {
  return kind == RowKind::kDecode || (kind == RowKind::kPad && new_tokens == 1);
}

/// Decode rows of one token and at most `pages_per_row` pages each.
constexpr GraphShape decode_shape(std::int32_t rows, std::int32_t pages_per_row) {
  GraphShape shape;
  shape.decode_rows = rows;
  shape.tokens = rows;
  // More pages than an int32 counts are more than any cache has.
  shape.pages = static_cast<std::int32_t>(
      std::min<std::int64_t>(std::int64_t{rows} * pages_per_row, INT32_MAX));
  return shape;
}

constexpr std::int64_t total_rows(const GraphShape& shape) {
  return std::int64_t{shape.prefill_rows} + shape.decode_rows + shape.verify_rows;
}

/// Where prefill rows may begin in a chunk_invariant context: on the grid of the chunked delta rule
/// and of attention's tiles of keys.
inline Status check_on_grid(const Context& context, std::string_view who, const RowView& row) {
  if (!context.chunk_invariant() || row.kind != RowKind::kPrefill || row.new_tokens == 0 ||
      row.computed % kGdnChunk == 0) {
    return {};
  }
  return invalid_argument(who, ": row ", row.index, " (prefill) starts at ", row.computed,
                          ", must be at a multiple of ", kGdnChunk, " for chunk_invariant");
}

/// What a step has more of than there is room for.
struct ShapeExcess {
  const char* what;
  std::int32_t has;
  std::int32_t room;
};

/// The first such count, or nothing when the step fits.
inline std::optional<ShapeExcess> shape_excess(const GraphShape& has, const GraphShape& room) {
  for (const ShapeExcess& count : {ShapeExcess{"prefill rows", has.prefill_rows, room.prefill_rows},
                                   {"decode rows", has.decode_rows, room.decode_rows},
                                   {"verify rows", has.verify_rows, room.verify_rows},
                                   {"tokens", has.tokens, room.tokens},
                                   {"pages", has.pages, room.pages}}) {
    if (count.has > count.room) return count;
  }
  return std::nullopt;
}

}  // namespace hybridattn::backend
