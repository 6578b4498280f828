#include "src/ops/ragged_check.h"

namespace hybridattn::ops {

Status check_ragged_rows(const char* op, const RaggedRows& rows, std::int64_t tokens,
                         std::int64_t slots, std::int64_t max_length) {
  core::ArgCheck check(op);
  check.require(rows.count >= 0, "rows.count is ", rows.count, ", must be at least 0");
  check.array("rows.start", rows.start, rows.count).array("rows.length", rows.length, rows.count);
  check.array("rows.slot", rows.slot, rows.count).array("rows.computed", rows.computed, rows.count);
  if (!check.ok()) return check.status();
  for (std::int32_t r = 0; r < rows.count; ++r) {
    const std::int64_t start = rows.start[r];
    const std::int64_t length = rows.length[r];
    if (start < 0 || length < 0 || start + length > tokens) {
      return error(StatusCode::kOutOfRange, op, ": row ", r, " names tokens [", start, ", ",
                   start + length, "), must lie in [0, ", tokens, ")");
    }
    if (length > max_length) {
      return invalid_argument(op, ": row ", r, " has length ", length, ", must be at most ",
                              max_length);
    }
    if (rows.slot[r] != kPadIndex && (rows.slot[r] < 0 || rows.slot[r] >= slots)) {
      return error(StatusCode::kOutOfRange, op, ": row ", r, " has slot ", rows.slot[r],
                   ", must be -1 (pad) or in [0, ", slots, ")");
    }
    if (rows.computed[r] < 0) {
      return invalid_argument(op, ": row ", r, " has computed ", rows.computed[r],
                              ", must be at least 0");
    }
  }
  return {};
}

}  // namespace hybridattn::ops
