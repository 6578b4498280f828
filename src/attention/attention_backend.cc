// Planning and the eager upstream verbs, once for all backends.
#include "hybridattn/attention_backend.h"

#include <algorithm>

#include "hybridattn/status_macros.h"
#include "src/attention/step_shape.h"

namespace hybridattn {
namespace {

void view_rows(const ForwardBatch& batch, std::vector<RowView>& rows) {
  rows.clear();
  for (std::int32_t r = 0; r < batch.num_rows(); ++r) {
    const BatchRow& row = batch.rows()[static_cast<std::size_t>(r)];
    if (backend::is_empty_pad(row.kind, row.new_tokens)) continue;
    rows.push_back({r, row.kind, row.slot, row.pages, row.computed, row.new_tokens,
                    batch.token_start(r), row.parents});
  }
}

}  // namespace

Status AttentionBackend::run_attention(const Plan&, const RadixAttention& layer,
                                       const AttentionRunArgs&) {
  return error(StatusCode::kUnsupported, name(), ": layer ", layer.layer_id,
               " is full attention, which this backend does not serve; use HybridAttnBackend");
}

Status AttentionBackend::run_gdn(const Plan&, const RadixLinearAttention& layer,
                                 const GdnRunArgs&) {
  return error(StatusCode::kUnsupported, name(), ": layer ", layer.layer_id,
               " is Gated DeltaNet, which this backend does not serve; use HybridAttnBackend");
}

Result<std::shared_ptr<Plan>> AttentionBackend::plan(const ForwardBatch& batch) {
  view_rows(batch, rows_);
  HYBRIDATTN_TRY(check_rows(rows_));
  HYBRIDATTN_TRY(reserve(batch.num_tokens()));
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> made, make_plan(batch.shape(), /*recordable=*/false));
  write_rows(*made, rows_);
  made->reserve_drafts();
  remember(*made, rows_, batch.num_rows(), batch.id(), batch.mode());
  return made;
}

/// Room for what a plan of this shape can ever remember or commit.
void Plan::reserve_drafts() {
  const auto rows = static_cast<std::size_t>(shape_.verify_rows);
  const std::size_t tokens = rows > 0 ? static_cast<std::size_t>(shape_.tokens) : 0;
  verify_rows_.reserve(rows);
  accepted_.reserve(rows);
  draft_parents_.reserve(tokens);
  accepted_paths_.reserve(tokens);
}

/// What the plan itself knows of its step. Allocates nothing.
void AttentionBackend::remember(Plan& plan, std::span<const RowView> rows, std::int32_t num_rows,
                                std::uint64_t batch_id, ForwardMode mode) {
  plan.batch_id_ = batch_id;
  plan.mode_ = mode;
  plan.committed_ = false;
  plan.num_rows_ = num_rows;
  plan.verify_rows_.clear();
  plan.draft_parents_.clear();
  for (const RowView& row : rows) {
    if (row.kind != RowKind::kVerify) continue;
    plan.verify_rows_.push_back(
        {row.index, row.new_tokens, row.first_token, plan.draft_parents_.size()});
    for (std::int32_t i = 0; i < row.new_tokens; ++i) {
      plan.draft_parents_.push_back(row.parents.empty() ? i - 1
                                                        : row.parents[static_cast<std::size_t>(i)]);
    }
  }
}

Result<std::shared_ptr<Plan>> AttentionBackend::plan_graph(const GraphShape& shape) {
  const std::int32_t rows[] = {shape.prefill_rows, shape.decode_rows, shape.verify_rows};
  if (*std::min_element(std::begin(rows), std::end(rows)) < 0 || shape.tokens < 0 ||
      shape.pages < 0) {
    return invalid_argument(name(), "::plan_graph: shape has prefill_rows ", shape.prefill_rows,
                            ", decode_rows ", shape.decode_rows, ", verify_rows ",
                            shape.verify_rows, ", tokens ", shape.tokens, ", pages ", shape.pages,
                            ", must all be at least 0");
  }
  if (std::int64_t{shape.tokens} < rows[1]) {
    return invalid_argument(name(), "::plan_graph: shape has ", shape.tokens, " tokens and ",
                            rows[1], " decode rows, must have at least one token for each");
  }
  HYBRIDATTN_TRY(reserve(shape.tokens));
  HYBRIDATTN_TRY(check_rows({}));  // makes what the check keeps: replan allocates nothing
  rows_.reserve(static_cast<std::size_t>(backend::total_rows(shape)));
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> made, make_plan(shape, /*recordable=*/true));
  made->reserve_drafts();
  write_rows(*made, {});
  return made;
}

Status AttentionBackend::check_fits(const Plan& plan, const GraphShape& has) const {
  const auto excess = backend::shape_excess(has, plan.shape());
  if (!excess.has_value()) return {};
  return error(StatusCode::kOutOfRange, name(), "::replan: the step has ", excess->has, " ",
               excess->what, ", the plan was made for at most ", excess->room);
}

Status AttentionBackend::rewrite(Plan& plan, std::span<const RowView> rows, std::int32_t num_rows,
                                 std::uint64_t batch_id, ForwardMode mode) {
  if (!plan.recordable()) {
    return error(StatusCode::kFailedPrecondition, name(),
                 "::replan: the plan is that of a single step, must be one of plan_graph");
  }
  if (!plan.verify_rows_.empty() && !plan.committed_ && plan.ran()) {
    return error(StatusCode::kFailedPrecondition, name(), "::replan: ", plan.verify_rows_.size(),
                 " verify rows of batch ", plan.batch_id_,
                 " were replayed and not committed; commit them first, with -1 where nothing is "
                 "accepted");
  }
  HYBRIDATTN_TRY(check_rows(rows));
  write_rows(plan, rows);
  remember(plan, rows, num_rows, batch_id, mode);
  return {};
}

Status AttentionBackend::move_accepted(Plan&, std::span<const AcceptedRow>) { return {}; }

Status AttentionBackend::check_commit(const Plan& plan,
                                      std::span<const std::int32_t> last_accepted) const {
  if (plan.committed_) {
    return error(StatusCode::kFailedPrecondition, name(), "::commit: batch ", plan.batch_id_,
                 " was committed already");
  }
  if (last_accepted.size() != static_cast<std::size_t>(plan.num_rows_)) {
    return invalid_argument(name(), "::commit: last_accepted has ", last_accepted.size(),
                            " entries, must have one for each of ", plan.num_rows_, " rows");
  }
  for (const Plan::VerifyRow& verify : plan.verify_rows_) {
    const std::int32_t last = last_accepted[static_cast<std::size_t>(verify.row)];
    if (last < -1 || last >= verify.tokens) {
      return error(StatusCode::kOutOfRange, name(), "::commit: row ", verify.row,
                   ": last_accepted is ", last, ", must be -1 (none) or one of its ", verify.tokens,
                   " tokens");
    }
  }
  return {};
}

/// The accepted path of each verify row, from its first token on.
void AttentionBackend::find_paths(Plan& plan, std::span<const std::int32_t> last_accepted) {
  std::vector<std::int32_t>& paths = plan.accepted_paths_;
  plan.accepted_.clear();
  paths.clear();
  for (const Plan::VerifyRow& verify : plan.verify_rows_) {
    const std::size_t begin = paths.size();
    const std::int32_t last = last_accepted[static_cast<std::size_t>(verify.row)];
    for (std::int32_t t = last; t >= 0;
         t = plan.draft_parents_[verify.parents + static_cast<std::size_t>(t)]) {
      paths.push_back(t);
    }
    std::reverse(paths.begin() + static_cast<std::ptrdiff_t>(begin), paths.end());
    plan.accepted_.push_back({verify.first_token, {paths.data() + begin, paths.size() - begin}});
  }
}

Status AttentionBackend::commit(Plan& plan, std::span<const std::int32_t> last_accepted) {
  HYBRIDATTN_TRY(check_commit(plan, last_accepted));
  find_paths(plan, last_accepted);
  HYBRIDATTN_TRY(move_accepted(plan, plan.accepted_));
  plan.committed_ = true;
  return {};
}

Status AttentionBackend::commit(Plan& plan, RequestTable& table, std::span<const Handle> rows,
                                std::span<const std::int32_t> last_accepted) {
  HYBRIDATTN_TRY(check_commit(plan, last_accepted));
  if (rows.size() != last_accepted.size()) {
    return invalid_argument(name(), "::commit: rows has ", rows.size(),
                            " entries, must have one for each of ", last_accepted.size(),
                            " rows of the batch");
  }
  last_.assign(last_accepted.begin(), last_accepted.end());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!table.is_open(rows[i])) last_[i] = -1;
  }
  HYBRIDATTN_TRY(commit(plan, last_));
  for (std::size_t i = 0; i < plan.accepted_.size(); ++i) {
    const auto tokens = static_cast<std::int32_t>(plan.accepted_[i].path.size());
    const Handle& row = rows[static_cast<std::size_t>(plan.verify_rows_[i].row)];
    if (tokens > 0) HYBRIDATTN_TRY(table.advance(row, tokens));
  }
  return {};
}

Status AttentionBackend::replan(Plan& plan, const ForwardBatch& batch) {
  HYBRIDATTN_TRY(check_fits(plan, batch.shape()));
  view_rows(batch, rows_);
  return rewrite(plan, rows_, batch.num_rows(), batch.id(), batch.mode());
}

Status AttentionBackend::init_forward_metadata(const ForwardBatch& batch) {
  HYBRIDATTN_ASSIGN(current_, plan(batch));
  return {};
}

Status AttentionBackend::check_current(const char* verb, const ForwardBatch& batch) const {
  if (current_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, name(), "::", verb,
                 ": no batch is planned; call init_forward_metadata first");
  }
  if (!current_->recordable() && current_->batch_id() != batch.id()) {
    return error(StatusCode::kFailedPrecondition, name(), "::", verb, ": batch ", batch.id(),
                 " is given and batch ", current_->batch_id(),
                 " is planned; call init_forward_metadata first");
  }
  return {};
}

Status AttentionBackend::forward(const RadixAttention& layer, const ForwardBatch& batch,
                                 const AttentionRunArgs& args) {
  return batch.mode() == ForwardMode::kDecode ? forward_decode(layer, batch, args)
                                              : forward_extend(layer, batch, args);
}

Status AttentionBackend::forward_extend(const RadixAttention& layer, const ForwardBatch& batch,
                                        const AttentionRunArgs& args) {
  HYBRIDATTN_TRY(check_current("forward_extend", batch));
  return run_attention(*current_, layer, args);
}

Status AttentionBackend::forward_decode(const RadixAttention& layer, const ForwardBatch& batch,
                                        const AttentionRunArgs& args) {
  HYBRIDATTN_TRY(check_current("forward_decode", batch));
  if (batch.mode() != ForwardMode::kDecode && batch.mode() != ForwardMode::kIdle) {
    return error(StatusCode::kFailedPrecondition, name(), "::forward_decode: the batch's mode is ",
                 forward_mode_name(batch.mode()), ", must be decode or idle");
  }
  return run_attention(*current_, layer, args);
}

Status AttentionBackend::forward_gdn(const RadixLinearAttention& layer, const ForwardBatch& batch,
                                     const GdnRunArgs& args) {
  HYBRIDATTN_TRY(check_current("forward_gdn", batch));
  return run_gdn(*current_, layer, args);
}

}  // namespace hybridattn
