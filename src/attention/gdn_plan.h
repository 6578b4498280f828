// The rows of a planned step of Gated DeltaNet, in the order in which its ops take them.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "hybridattn/attention_backend.h"
#include "hybridattn/ops/gated_rms_norm.h"
#include "src/attention/placed_gdn_step.h"

namespace hybridattn::backend {

/// A planned step. Rows of one token (decode, padding) come first, then prefill and longer padding,
/// then verify.
struct GdnPlan final : Plan {
  GdnPlan(std::uint64_t backend, const GraphShape& shape, bool recordable)
      : Plan(backend, shape, recordable) {
    num_steps = static_cast<std::size_t>(shape.decode_rows);
    // Behind the prefill rows one more, for tokens that no row names.
    first_verify = num_steps + static_cast<std::size_t>(shape.prefill_rows) + 1;
    const auto rows = first_verify + static_cast<std::size_t>(shape.verify_rows);
    for (auto* array : {&start, &length, &slot, &computed}) array->resize(rows);
    kept.resize(static_cast<std::size_t>(shape.verify_rows));
    kept_last.resize(static_cast<std::size_t>(shape.verify_rows));
    pad.resize(static_cast<std::size_t>(shape.tokens));
    chunk_pad.resize(static_cast<std::size_t>(shape.tokens));
    parents.resize(static_cast<std::size_t>(shape.tokens), kChain);
  }

  /// Rows [first, first + count) of the plan's own order.
  RaggedRows rows(std::size_t first, std::size_t count,
                  const DeviceRowTables* (PlacedGdnStep::*device)() const noexcept) const {
    RaggedRows rows;
    if (placed != nullptr) rows.device = ((*placed).*device)();
    rows.count = static_cast<std::int32_t>(count);
    rows.start = start.data() + first;
    rows.length = length.data() + first;
    rows.slot = slot.data() + first;
    rows.computed = computed.data() + first;
    return rows;
  }
  RaggedRows steps() const { return rows(0, num_steps, &PlacedGdnStep::steps); }
  /// Empty where nothing but steps can be: as many tokens as decode rows.
  RaggedRows prefills() const {
    const std::size_t count = first_verify - num_steps;
    const bool any = static_cast<std::size_t>(num_tokens()) > num_steps || count > 1;
    return rows(num_steps, any ? count : 0, &PlacedGdnStep::prefills);
  }
  RaggedRows steps_and_prefills() const {
    return rows(0, num_steps + static_cast<std::size_t>(prefills().count),
                &PlacedGdnStep::steps_and_prefills);
  }
  RaggedRows verifies() const {
    return rows(first_verify, start.size() - first_verify, &PlacedGdnStep::verifies);
  }
  VerifyRows verify() const {
    if (placed == nullptr) return {kept.data(), parents.data()};
    return {kept.data(), parents.data(), placed->kept(), placed->parents()};
  }
  /// Kinds of tokens for the norm of all rows, and of prefill rows alone.
  const std::uint8_t* norm_tokens() const { return placed == nullptr ? pad.data() : placed->pad(); }
  const std::uint8_t* chunk_norm_tokens() const {
    return placed == nullptr ? chunk_pad.data() : placed->chunk_pad();
  }
  GdnStep on_host() const {
    return {steps(),  prefills(), steps_and_prefills(), verifies(),
            verify(), pad.data(), chunk_pad.data(),     num_tokens()};
  }

  void write(std::size_t at, const RowView& row) {
    const bool is_pad = row.kind == RowKind::kPad;
    start[at] = row.first_token;
    length[at] = row.new_tokens;
    slot[at] = is_pad ? kPadIndex : row.slot;
    computed[at] = static_cast<std::int32_t>(row.computed);
    const NormToken token = is_pad ? kPadded : kNormed;
    const bool chunked = at >= num_steps && at < first_verify;
    std::fill_n(pad.begin() + row.first_token, row.new_tokens, token);
    std::fill_n(chunk_pad.begin() + row.first_token, row.new_tokens, chunked ? token : kLeftOut);
    std::fill_n(parents.begin() + row.first_token, row.new_tokens, kChain);
    std::copy(row.parents.begin(), row.parents.end(), parents.begin() + row.first_token);
  }

  std::vector<std::int32_t> start, length, slot, computed;
  std::size_t num_steps = 0;
  std::size_t first_verify = 0;
  std::vector<std::uint8_t> pad;          // [tokens] of NormToken
  std::vector<std::uint8_t> chunk_pad;    // [tokens] the same, with what is no prefill left out
  std::vector<std::int32_t> kept;         // [verify rows] first slot of each in the kept states
  std::vector<std::int32_t> kept_last;    // [verify rows] kept slot of what a commit accepts
  std::vector<std::int32_t> parents;      // [tokens] of trees, kChain elsewhere
  std::shared_ptr<PlacedGdnStep> placed;  // nullptr on the CPU
};

}  // namespace hybridattn::backend
