#include "src/ops/attention_check.h"

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/ops/attention_plan.h"
#include "src/ops/verify_check.h"

namespace hybridattn::ops {
namespace {

Status check_pages(const char* op, const AttentionRows& rows, const AttentionHeads& heads,
                   std::int32_t r, std::int64_t pages) {
  const std::int64_t page_size = heads.page_size;
  const std::int64_t used = (rows.kv_length[r] + page_size - 1) / page_size;
  const std::int64_t first = rows.kv_start[r];
  if (first < 0 || first > rows.num_pages_listed - used) {
    return error(StatusCode::kOutOfRange, op, ": row ", r, " reads ", used, " pages from ", first,
                 " of the list, which has ", rows.num_pages_listed);
  }
  for (std::int64_t i = first_page_read(rows, heads, r); i < used; ++i) {
    const std::int32_t page = rows.pages[first + i];
    if (page < 0 || page >= pages) {
      return error(StatusCode::kOutOfRange, op, ": row ", r, " needs page ", i, " of ", used,
                   " for ", rows.kv_length[r], " keys and the list has ", page,
                   " there, must be in [0, ", pages, ")");
    }
  }
  return {};
}

Status check_dense(const char* op, const AttentionRows& rows, std::int32_t r, std::int64_t keys) {
  const std::int64_t first = rows.kv_start[r];
  if (first >= 0 && first <= keys - rows.kv_length[r]) return {};
  return error(StatusCode::kOutOfRange, op, ": row ", r, " reads ", rows.kv_length[r],
               " keys from ", first, ", must lie in [0, ", keys, ")");
}

Status check_tree(const char* op, const AttentionRows& rows, bool causal, std::int32_t r) {
  const std::int64_t start = rows.q_start[r], length = rows.q_length[r];
  HYBRIDATTN_TRY(check_parents(op, r, rows.parents, start, length));
  if (rows.parents == nullptr || length == 0 || rows.parents[start] == kChain || causal) return {};
  return error(StatusCode::kUnsupported, op, ": row ", r,
               " is a tree and causal is false, must be true");
}

}  // namespace

Status check_attention_rows(const char* op, const AttentionRows& rows, const AttentionHeads& heads,
                            std::int64_t tokens, std::int64_t pages) {
  core::ArgCheck check(op);
  check.require(rows.count >= 0, "rows.count is ", rows.count, ", must be at least 0");
  check.array("rows.q_start", rows.q_start, rows.count);
  check.array("rows.q_length", rows.q_length, rows.count);
  check.array("rows.kv_length", rows.kv_length, rows.count);
  check.array("rows.kv_start", rows.kv_start, rows.count);
  if (!check.ok()) return check.status();
  for (std::int32_t r = 0; r < rows.count; ++r) {
    const std::int64_t start = rows.q_start[r];
    const std::int64_t length = rows.q_length[r];
    if (start < 0 || length < 0 || start + length > tokens) {
      return error(StatusCode::kOutOfRange, op, ": row ", r, " names queries [", start, ", ",
                   start + length, "), must lie in [0, ", tokens, ")");
    }
    if (rows.kv_length[r] < 0) {
      return invalid_argument(op, ": row ", r, " has kv_length ", rows.kv_length[r],
                              ", must be at least 0");
    }
    if (heads.page_size == 0) {
      HYBRIDATTN_TRY(check_dense(op, rows, r, pages));
    } else if (length > 0) {
      HYBRIDATTN_TRY(check_pages(op, rows, heads, r, pages));
    }
    HYBRIDATTN_TRY(check_tree(op, rows, heads.causal, r));
  }
  return {};
}

}  // namespace hybridattn::ops
