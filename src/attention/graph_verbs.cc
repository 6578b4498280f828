// The graph verbs under the upstream names: decode steps whose rows are looked up in a
// RequestTable.
#include <exception>

#include "hybridattn/attention_backend.h"
#include "hybridattn/status_macros.h"
#include "src/attention/step_shape.h"

namespace hybridattn {
namespace {

Status check_mode(std::string_view name, const char* verb, ForwardMode mode) {
  if (mode == ForwardMode::kDecode || mode == ForwardMode::kIdle) return {};
  return error(StatusCode::kUnsupported, name, "::", verb, ": forward_mode is ",
               forward_mode_name(mode), ", must be decode or idle; use plan_graph for other steps");
}

Status check_length(std::string_view name, const char* verb, const char* argument,
                    std::span<const std::int32_t> values, std::int32_t bs) {
  if (values.size() == static_cast<std::size_t>(bs)) return {};
  return invalid_argument(name, "::", verb, ": ", argument, " has ", values.size(),
                          " elements, must have bs = ", bs);
}

/// What rows of one token hold.
GraphShape shape_of(std::span<const RowView> rows) {
  GraphShape shape;
  shape.decode_rows = shape.tokens = static_cast<std::int32_t>(rows.size());
  for (const RowView& row : rows) shape.pages += static_cast<std::int32_t>(row.pages.size());
  return shape;
}

}  // namespace

void AttentionBackend::set_request_table(const RequestTable* table) noexcept {
  if (table != table_) {
    graph_plans_.clear();
    max_graph_rows_ = 0;
  }
  table_ = table;
}

Status AttentionBackend::init_cuda_graph_state(std::int32_t max_bs, std::int32_t max_num_tokens) {
  if (max_bs < 1 || max_num_tokens < max_bs) {
    return invalid_argument(name(), "::init_cuda_graph_state: max_bs is ", max_bs,
                            " and max_num_tokens ", max_num_tokens,
                            ", must be at least 1 and at least max_bs");
  }
  if (table_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, name(),
                 "::init_cuda_graph_state: there is no table; call set_request_table first");
  }
  HYBRIDATTN_TRY(reserve(max_num_tokens));
  try {
    rows_.reserve(static_cast<std::size_t>(max_bs));
  } catch (const std::exception&) {
    return error(StatusCode::kResourceExhausted, name(), "::init_cuda_graph_state: max_bs is ",
                 max_bs, ", for which there is no memory");
  }
  max_graph_rows_ = max_bs;
  return {};
}

/// Fills rows_ from the table. Allocates nothing: rows_ has room for max_bs.
Status AttentionBackend::table_rows(std::span<const std::int32_t> req_pool_indices,
                                    std::span<const std::int32_t> seq_lens) {
  rows_.clear();
  for (std::size_t i = 0; i < req_pool_indices.size(); ++i) {
    const std::int32_t index = req_pool_indices[i];
    const auto token = static_cast<std::int32_t>(i);
    if (index == kPadIndex || seq_lens[i] == 0) {
      rows_.push_back({token, RowKind::kPad, kPadIndex, {}, 0, 1, token});
      continue;
    }
    const Result<Handle> row = table_->find(index);
    if (!row.ok()) {
      return error(StatusCode::kFailedPrecondition, name(), ": req_pool_indices[", i, "] is ",
                   index, ", must be -1 (pad) or an open row of the table");
    }
    if (seq_lens[i] != table_->computed(*row) + 1) {
      return error(StatusCode::kFailedPrecondition, name(), ": seq_lens[", i, "] is ", seq_lens[i],
                   ", must be ", table_->computed(*row) + 1, ": row ", index, " holds ",
                   table_->computed(*row), " tokens and one is new");
    }
    rows_.push_back({token, RowKind::kDecode, table_->slot_id(*row), table_->pages_of(*row),
                     table_->computed(*row), 1, token});
  }
  return {};
}

Status AttentionBackend::init_forward_metadata_capture_cuda_graph(
    std::int32_t bs, std::int32_t num_tokens, std::span<const std::int32_t> req_pool_indices,
    std::span<const std::int32_t> seq_lens, ForwardMode forward_mode) {
  constexpr const char* kVerb = "init_forward_metadata_capture_cuda_graph";
  HYBRIDATTN_TRY(check_mode(name(), kVerb, forward_mode));
  if (bs < 1 || bs > max_graph_rows_) {
    return error(StatusCode::kOutOfRange, name(), "::", kVerb, ": bs is ", bs, ", must be 1 to ",
                 max_graph_rows_, ", the max_bs of init_cuda_graph_state");
  }
  if (num_tokens != bs) {
    return invalid_argument(name(), "::", kVerb, ": num_tokens is ", num_tokens,
                            ", must be bs = ", bs);
  }
  HYBRIDATTN_TRY(check_length(name(), kVerb, "req_pool_indices", req_pool_indices, bs));
  HYBRIDATTN_TRY(check_length(name(), kVerb, "seq_lens", seq_lens, bs));
  HYBRIDATTN_TRY(table_rows(req_pool_indices, seq_lens));
  auto found = graph_plans_.find(bs);
  if (found == graph_plans_.end()) {
    HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> made,
                      plan_graph(backend::decode_shape(bs, table_->max_pages_per_row())));
    found = graph_plans_.emplace(bs, std::move(made)).first;
  }
  HYBRIDATTN_TRY(rewrite(*found->second, shape_of(rows_), rows_, bs, 0, forward_mode));
  current_ = found->second;
  return {};
}

Status AttentionBackend::init_forward_metadata_replay_cuda_graph(
    std::int32_t bs, std::span<const std::int32_t> req_pool_indices,
    std::span<const std::int32_t> seq_lens, std::int64_t seq_lens_sum, ForwardMode forward_mode,
    std::span<const std::int32_t> seq_lens_cpu) {
  constexpr const char* kVerb = "init_forward_metadata_replay_cuda_graph";
  HYBRIDATTN_TRY(check_mode(name(), kVerb, forward_mode));
  const auto found = graph_plans_.find(bs);
  if (found == graph_plans_.end()) {
    return error(StatusCode::kFailedPrecondition, name(), "::", kVerb, ": bs is ", bs,
                 ", which was not captured");
  }
  HYBRIDATTN_TRY(check_length(name(), kVerb, "req_pool_indices", req_pool_indices, bs));
  HYBRIDATTN_TRY(check_length(name(), kVerb, "seq_lens", seq_lens, bs));
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < seq_lens.size(); ++i) {
    sum += seq_lens[i];
    if (!seq_lens_cpu.empty() &&
        (seq_lens_cpu.size() != seq_lens.size() || seq_lens_cpu[i] != seq_lens[i])) {
      return invalid_argument(name(), "::", kVerb, ": seq_lens_cpu differs from seq_lens at ", i);
    }
  }
  if (sum != seq_lens_sum) {
    return invalid_argument(name(), "::", kVerb, ": seq_lens_sum is ", seq_lens_sum, ", must be ",
                            sum, ", the sum of seq_lens");
  }
  HYBRIDATTN_TRY(table_rows(req_pool_indices, seq_lens));
  HYBRIDATTN_TRY(rewrite(*found->second, shape_of(rows_), rows_, bs, 0, forward_mode));
  current_ = found->second;
  return {};
}

}  // namespace hybridattn
