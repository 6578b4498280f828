// ForwardBatch: one step of the engine, as every part of it sees the step.
#pragma once

#include <cstdint>
#include <vector>

#include "hybridattn/export.h"
#include "hybridattn/status.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// What a row is. The caller says it; shapes never decide.
enum class RowKind : std::uint8_t {
  kPrefill,  ///< any number of prompt tokens, 0 included
  kDecode,   ///< exactly one token
  kVerify,   ///< drafted tokens whose states must be kept apart until some are accepted
  kPad,      ///< no request: nothing is read or written for it, its outputs are zeros
};
HYBRIDATTN_API std::string_view row_kind_name(RowKind kind) noexcept;

struct BatchRow {
  RowKind kind = RowKind::kPad;
  /// Slot of the recurrent and convolution state; kPadIndex for pad rows and models without GDN
  /// layers.
  std::int32_t slot = kPadIndex;
  /// Ids of the pages with the row's keys and values, in order; enough for computed + new_tokens.
  std::vector<std::int32_t> pages;
  /// Tokens already in the state and in the pages. 0 = a fresh state, whatever the slot holds.
  std::int64_t computed = 0;
  /// Tokens of this step.
  std::int32_t new_tokens = 0;
  /// Verify rows that are a tree: the token of the row that each of the new ones follows, an
  /// earlier one, or -1 for the row's last computed token; at most kMaxTreeTokens. Empty = a chain.
  std::vector<std::int32_t> parents{};
};

/// Derived from the rows, for the upstream verbs.
enum class ForwardMode : std::uint8_t { kExtend, kDecode, kMixed, kTargetVerify, kIdle };
HYBRIDATTN_API std::string_view forward_mode_name(ForwardMode mode) noexcept;

/// How much a step holds, or may hold at most.
struct GraphShape {
  std::int32_t prefill_rows = 0;
  std::int32_t decode_rows = 0;
  std::int32_t verify_rows = 0;
  std::int32_t tokens = 0;  ///< length of the flat stream
  std::int32_t pages = 0;   ///< pages that all rows name together
};

/// An immutable step: rows of any kinds in any order. The tokens of row 0 come first in the flat
/// stream, then those of row 1, and so on, pad rows' tokens included.
class HYBRIDATTN_API ForwardBatch {
 public:
  /// Errors: invalid_argument, naming the row: a decode row without exactly one token, negative
  /// counts, a pad row with a slot or pages, one slot in two rows, more than 2^31 - 1 tokens.
  static Result<ForwardBatch> create(std::vector<BatchRow> rows);

  const std::vector<BatchRow>& rows() const noexcept { return rows_; }
  std::int32_t num_rows() const noexcept { return static_cast<std::int32_t>(rows_.size()); }
  /// Tokens of all rows.
  std::int32_t num_tokens() const noexcept { return num_tokens_; }
  /// Index in the flat stream of the row's first token.
  std::int32_t token_start(std::int32_t row) const {
    return starts_[static_cast<std::size_t>(row)];
  }
  ForwardMode mode() const noexcept { return mode_; }
  /// What it holds. A pad row of one token counts as a decode row, one of more as a prefill row,
  /// one of none not at all.
  const GraphShape& shape() const noexcept { return shape_; }
  /// Different for each batch made in this process: a plan remembers whose it is.
  std::uint64_t id() const noexcept { return id_; }

 private:
  ForwardBatch() = default;
  std::vector<BatchRow> rows_;
  std::vector<std::int32_t> starts_;
  std::int32_t num_tokens_ = 0;
  ForwardMode mode_ = ForwardMode::kIdle;
  GraphShape shape_;
  std::uint64_t id_ = 0;
};

}  // namespace hybridattn
