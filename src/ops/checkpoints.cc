#include "src/ops/checkpoints.h"

#include "hybridattn/ops/gdn_prefill.h"
#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/ops/slot_check.h"

namespace hybridattn::ops {
namespace {

/// The row and the token count of checkpoint `i`.
Status check_place(const char* op, const RaggedRows& rows, const RowCheckpoints& c,
                   std::int32_t i) {
  const std::int32_t row = c.row[i];
  if (row < 0 || row >= rows.count) {
    return error(StatusCode::kOutOfRange, op, ": checkpoints.row[", i, "] is ", row,
                 ", must be in [0, ", rows.count, ")");
  }
  if (i > 0 && row < c.row[i - 1]) {
    return invalid_argument(op, ": checkpoints.row[", i, "] is ", row, " after ", c.row[i - 1],
                            ", must not fall");
  }
  if (c.tokens[i] < 1 || c.tokens[i] > rows.length[row]) {
    return error(StatusCode::kOutOfRange, op, ": checkpoints.tokens[", i, "] is ", c.tokens[i],
                 ", must be 1 to ", rows.length[row], ", the length of row ", row);
  }
  if (i > 0 && row == c.row[i - 1] && c.tokens[i] <= c.tokens[i - 1]) {
    return invalid_argument(op, ": checkpoints.tokens[", i, "] is ", c.tokens[i], " after ",
                            c.tokens[i - 1], " of the same row, must rise");
  }
  return {};
}

/// That nothing else of the call has the slot of checkpoint `i`.
Status check_slot_free(const char* op, const RaggedRows& rows, const RowCheckpoints& c,
                       std::int32_t i) {
  const std::int32_t slot = c.slot[i];
  if (slot == kPadIndex) return {};
  if (rows.slot[c.row[i]] == kPadIndex) {
    return invalid_argument(op, ": checkpoints.slot[", i, "] is ", slot,
                            ", must be -1 (pad) as the slot of row ", c.row[i]);
  }
  for (std::int32_t r = 0; r < rows.count; ++r) {
    if (rows.slot[r] == slot) {
      return invalid_argument(op, ": checkpoints.slot[", i, "] is ", slot, ", the slot of row ", r,
                              ", must be another");
    }
  }
  for (std::int32_t j = 0; j < i; ++j) {
    if (c.slot[j] == slot) {
      return invalid_argument(op, ": checkpoints.slot[", i, "] and [", j, "] are ", slot,
                              ", must differ");
    }
  }
  return {};
}

/// How they lie in one block.
class Block {
 public:
  Block(std::int32_t rows, std::int32_t count)
      : rows_(static_cast<std::size_t>(rows)), count_(static_cast<std::size_t>(count)) {}

  std::size_t bytes() const { return (rows_ + 1 + 5 * count_) * sizeof(std::int32_t); }
  void write(const RaggedRows& rows, const RowCheckpoints& c, std::byte* host) const {
    auto* first = reinterpret_cast<std::int32_t*>(host);
    for (std::int32_t r = 0; r <= rows.count; ++r) *first++ = first_checkpoint(c, r);
    for (std::size_t i = 0; i < count_; ++i) {
      const std::int32_t left = c.tokens[i] % kGdnChunk;
      std::int32_t* to = first + i;
      for (const std::int32_t value :
           {c.tokens[i], c.slot[i], rows.start[c.row[i]] + c.tokens[i] - left, left, 1}) {
        *to = value;
        to += count_;
      }
    }
  }
  void point(const std::byte* device, PlacedCheckpoints& out) const {
    out.first = reinterpret_cast<const std::int32_t*>(device);
    out.tokens = out.first + rows_ + 1;
    out.slot = out.tokens + count_;
    out.start = out.slot + count_;
    out.length = out.start + count_;
    out.computed = out.length + count_;
  }

 private:
  std::size_t rows_, count_;
};

}  // namespace

Status check_checkpoints(const char* op, const RaggedRows& rows, const RowCheckpoints& checkpoints,
                         std::int64_t slots) {
  const RowCheckpoints& c = checkpoints;
  core::ArgCheck check(op);
  check.require(c.count >= 0, "checkpoints.count is ", c.count, ", must be at least 0");
  check.array("checkpoints.row", c.row, c.count).array("checkpoints.tokens", c.tokens, c.count);
  check.array("checkpoints.slot", c.slot, c.count);
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(check_slots(op, "checkpoints.slot", c.slot, c.count, slots));
  for (std::int32_t i = 0; i < c.count; ++i) {
    HYBRIDATTN_TRY(check_place(op, rows, c, i));
    HYBRIDATTN_TRY(check_slot_free(op, rows, c, i));
  }
  return {};
}

Status refuse_checkpoints(const char* op, const RowCheckpoints& checkpoints) {
  if (checkpoints.count == 0) return {};
  return error(StatusCode::kUnsupported, op, ": checkpoints.count is ", checkpoints.count,
               ", must be 0: only causal_conv and gdn_prefill store checkpoints");
}

Result<PlacedCheckpoints> place_checkpoints(Context& context, const RaggedRows& rows,
                                            const RowCheckpoints& checkpoints) {
  PlacedCheckpoints placed;
  placed.host = checkpoints;
  if (context.device() == DeviceType::kCpu || checkpoints.count == 0) return placed;
  const Block block(rows.count, checkpoints.count);
  core::UploadRing& uploads = *context.impl().uploads;
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, uploads.take(block.bytes()));
  block.write(rows, checkpoints, piece.host);
  HYBRIDATTN_TRY(uploads.send(piece));
  block.point(piece.device, placed);
  return placed;
}

}  // namespace hybridattn::ops
