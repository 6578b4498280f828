#include "src/ops/attention_check.h"

#include <algorithm>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/ops/attention_plan.h"
#include "src/ops/verify_check.h"

namespace hybridattn::ops {
namespace {

Status bad_page(const char* op, const AttentionRows& rows, std::int32_t r, std::int64_t from,
                std::int64_t used, std::int64_t pages) {
  const std::int32_t* listed = rows.pages + rows.kv_start[r];
  std::int64_t i = from;
  while (listed[i] >= 0 && listed[i] < pages) ++i;
  return error(StatusCode::kOutOfRange, op, ": row ", r, " needs page ", i, " of ", used, " for ",
               rows.kv_length[r], " keys and the list has ", listed[i], " there, must be in [0, ",
               pages, ")");
}

/// The largest of some page ids, as which a negative one counts; 0 of none. Long lists make most of
/// the time of a plan: four at once.
std::uint32_t largest_id(const std::int32_t* ids, std::int64_t count) {
  const auto id = [&](std::int64_t at) { return static_cast<std::uint32_t>(ids[at]); };
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    a = std::max(a, id(i));
    b = std::max(b, id(i + 1));
    c = std::max(c, id(i + 2));
    d = std::max(d, id(i + 3));
  }
  for (; i < count; ++i) a = std::max(a, id(i));
  return std::max({a, b, c, d});
}

Status check_pages(const char* op, const AttentionRows& rows, const AttentionHeads& heads,
                   std::int32_t r, std::int64_t pages, AttentionEnds& ends) {
  const std::int64_t page_size = heads.page_size;
  const std::int64_t used = (rows.kv_length[r] + page_size - 1) / page_size;
  const std::int64_t first = rows.kv_start[r];
  if (first < 0 || first > rows.num_pages_listed - used) {
    return error(StatusCode::kOutOfRange, op, ": row ", r, " reads ", used, " pages from ", first,
                 " of the list, which has ", rows.num_pages_listed);
  }
  const std::int64_t from = first_page_read(rows, heads, r);
  const std::uint32_t most = largest_id(rows.pages + first + from, used - from);
  if (from < used && most >= pages) return bad_page(op, rows, r, from, used, pages);
  if (from < used) ends.page = std::max<std::int64_t>(ends.page, std::int64_t{most} + 1);
  return {};
}

Status check_dense(const char* op, const AttentionRows& rows, std::int32_t r, std::int64_t keys,
                   AttentionEnds& ends) {
  const std::int64_t first = rows.kv_start[r];
  if (first >= 0 && first <= keys - rows.kv_length[r]) {
    ends.page = std::max(ends.page, first + rows.kv_length[r]);
    return {};
  }
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

Status check_shared_prefixes(const char* op, const Context& context, bool shared) {
  if (!shared || !context.batch_invariant()) return {};
  return error(StatusCode::kUnsupported, op,
               ": shared_prefixes is true, must be false with batch_invariant: a row's sums would "
               "follow from its neighbours");
}

Status check_attention_lengths(const char* op, const AttentionRows& rows,
                               const AttentionHeads& heads) {
  constexpr std::int32_t kMostKeys = 0x7fffffff - 1024, kMostPage = 1 << 30;
  core::ArgCheck check(op);
  check.require_supported(heads.page_size <= kMostPage, "page_size is ", heads.page_size,
                          ", must be at most ", kMostPage);
  for (std::int32_t r = 0; r < rows.count; ++r) {
    check.require_supported(rows.kv_length[r] <= kMostKeys, "row ", r, " has kv_length ",
                            rows.kv_length[r], ", must be at most ", kMostKeys);
  }
  return check.status();
}

Status check_attention_rows(const char* op, const AttentionRows& rows, const AttentionHeads& heads,
                            std::int64_t tokens, std::int64_t pages, AttentionEnds& ends) {
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
    ends.token = std::max(ends.token, start + length);
    if (rows.kv_length[r] < 0) {
      return invalid_argument(op, ": row ", r, " has kv_length ", rows.kv_length[r],
                              ", must be at least 0");
    }
    if (heads.page_size == 0) {
      HYBRIDATTN_TRY(check_dense(op, rows, r, pages, ends));
    } else if (length > 0) {
      HYBRIDATTN_TRY(check_pages(op, rows, heads, r, pages, ends));
    }
    HYBRIDATTN_TRY(check_tree(op, rows, heads.causal, r));
  }
  return {};
}

}  // namespace hybridattn::ops
