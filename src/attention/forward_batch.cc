#include "hybridattn/forward_batch.h"

#include <atomic>
#include <limits>
#include <unordered_map>

#include "hybridattn/ops/verify_rows.h"
#include "hybridattn/status_macros.h"
#include "src/attention/step_shape.h"

namespace hybridattn {
namespace {

Status check_row(const BatchRow& row, std::size_t index) {
  const auto wrong = [&](const auto&... parts) {
    return invalid_argument("ForwardBatch: row ", index, " (", row_kind_name(row.kind), ") ",
                            parts...);
  };
  if (row.kind > RowKind::kPad) {
    return wrong("has kind ", static_cast<int>(row.kind), ", must be a RowKind");
  }
  if (row.new_tokens < 0) return wrong("has new_tokens ", row.new_tokens, ", must be at least 0");
  if (row.computed < 0) return wrong("has computed ", row.computed, ", must be at least 0");
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (row.computed > kMost - row.new_tokens) {
    return wrong("has ", row.computed, " computed and ", row.new_tokens,
                 " new tokens, must be under 2^31 together");
  }
  if (row.slot < kPadIndex) return wrong("has slot ", row.slot, ", must be -1 (pad) or at least 0");
  if (row.kind == RowKind::kDecode && row.new_tokens != 1) {
    return wrong("has new_tokens ", row.new_tokens, ", must be 1");
  }
  if (!row.parents.empty()) {
    if (row.kind != RowKind::kVerify) return wrong("has parents, must be verify to be a tree");
    if (row.parents.size() != static_cast<std::size_t>(row.new_tokens)) {
      return wrong("has ", row.parents.size(), " parents, must have one for each of ",
                   row.new_tokens, " new tokens");
    }
    if (row.new_tokens > kMaxTreeTokens) {
      return wrong("is a tree of ", row.new_tokens, " tokens, must have at most ", kMaxTreeTokens);
    }
    for (std::int32_t i = 0; i < row.new_tokens; ++i) {
      const std::int32_t parent = row.parents[static_cast<std::size_t>(i)];
      if (parent < -1 || parent >= i) {
        return wrong("has parent ", parent, " of token ", i, ", must be -1 or an earlier token");
      }
    }
  }
  if (row.kind == RowKind::kPad && (row.slot != kPadIndex || !row.pages.empty())) {
    return wrong("has slot ", row.slot, " and ", row.pages.size(), " pages, must have none");
  }
  return {};
}

Status check_slots(const std::vector<BatchRow>& rows) {
  std::unordered_map<std::int32_t, std::size_t> seen;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].slot == kPadIndex) continue;
    const auto [first, inserted] = seen.emplace(rows[i].slot, i);
    if (!inserted) {
      return invalid_argument("ForwardBatch: rows ", first->second, " and ", i, " both have slot ",
                              rows[i].slot, ", must differ");
    }
  }
  return {};
}

ForwardMode derive_mode(const std::vector<BatchRow>& rows) {
  bool prefill = false;
  bool decode = false;
  bool verify = false;
  for (const BatchRow& row : rows) {
    if (row.new_tokens == 0) continue;
    prefill = prefill || row.kind == RowKind::kPrefill;
    decode = decode || row.kind == RowKind::kDecode;
    verify = verify || row.kind == RowKind::kVerify;
  }
  if (int{prefill} + int{decode} + int{verify} > 1) return ForwardMode::kMixed;
  if (prefill) return ForwardMode::kExtend;
  if (decode) return ForwardMode::kDecode;
  return verify ? ForwardMode::kTargetVerify : ForwardMode::kIdle;
}

GraphShape shape_of(const std::vector<BatchRow>& rows) {
  GraphShape shape;
  for (const BatchRow& row : rows) {
    if (backend::is_empty_pad(row.kind, row.new_tokens)) continue;
    const bool step = backend::takes_a_step(row.kind, row.new_tokens);
    ++(row.kind == RowKind::kVerify ? shape.verify_rows
       : step                       ? shape.decode_rows
                                    : shape.prefill_rows);
    shape.tokens += row.new_tokens;
    shape.pages += static_cast<std::int32_t>(row.pages.size());
  }
  return shape;
}

}  // namespace

std::string_view row_kind_name(RowKind kind) noexcept {
  switch (kind) {
    case RowKind::kPrefill: return "prefill";
    case RowKind::kDecode: return "decode";
    case RowKind::kVerify: return "verify";
    case RowKind::kPad: return "pad";
  }
  return "unknown";
}

std::string_view forward_mode_name(ForwardMode mode) noexcept {
  switch (mode) {
    case ForwardMode::kExtend: return "extend";
    case ForwardMode::kDecode: return "decode";
    case ForwardMode::kMixed: return "mixed";
    case ForwardMode::kTargetVerify: return "target_verify";
    case ForwardMode::kIdle: return "idle";
  }
  return "unknown";
}

Result<ForwardBatch> ForwardBatch::create(std::vector<BatchRow> rows) {
  static std::atomic<std::uint64_t> next_id{1};
  std::int64_t tokens = 0;
  ForwardBatch batch;
  batch.starts_.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    HYBRIDATTN_TRY(check_row(rows[i], i));
    batch.starts_.push_back(static_cast<std::int32_t>(tokens));
    tokens += rows[i].new_tokens;
    if (tokens > std::numeric_limits<std::int32_t>::max()) {
      return invalid_argument("ForwardBatch: rows 0 to ", i, " have ", tokens,
                              " new tokens, must be under 2^31");
    }
  }
  HYBRIDATTN_TRY(check_slots(rows));
  batch.mode_ = derive_mode(rows);
  batch.shape_ = shape_of(rows);
  batch.rows_ = std::move(rows);
  batch.num_tokens_ = static_cast<std::int32_t>(tokens);
  batch.id_ = next_id.fetch_add(1);
  return batch;
}

}  // namespace hybridattn
