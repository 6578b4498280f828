// Planning and the eager upstream verbs, once for all backends.
#include "hybridattn/attention_backend.h"

#include <algorithm>
#include <atomic>
#include <exception>

#include "hybridattn/status_macros.h"
#include "hybridattn/upload_scope.h"
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

AttentionBackend::AttentionBackend() {
  static std::atomic<std::uint64_t> next_id{1};
  id_ = next_id.fetch_add(1);
}

Status AttentionBackend::check_plan(const Plan& plan) const {
  if (plan.backend_id() != id_) {
    return error(StatusCode::kFailedPrecondition, name(), " ", id_,
                 ": the plan is another backend's, that of ", plan.backend_id());
  }
  if (plan.superseded()) {
    return error(
        StatusCode::kFailedPrecondition, name(),
        ": the plan was superseded by another with verify rows, or its last replan failed");
  }
  return {};
}

/// Whether a plan with these rows may be written: drafts that have run wait for their commit.
/// `plan` is the one that would be rewritten, nullptr for a new one.
Status AttentionBackend::check_drafts(const Plan* plan, const GraphShape& shape) const {
  const std::shared_ptr<Plan> other = drafting_.lock();
  if (other == nullptr || !other->awaits_commit() || !other->ran()) return {};
  if (shape.verify_rows == 0 && other.get() != plan) return {};
  return error(StatusCode::kFailedPrecondition, name(), ": ", other->verify_rows_.size(),
               " verify rows of batch ", other->batch_id_,
               " have run and are not committed; commit them first, with -1 where nothing is "
               "accepted");
}

void AttentionBackend::claim_drafts(Plan& plan) {
  if (plan.verify_rows_.empty()) return;
  const std::shared_ptr<Plan> other = drafting_.lock();
  if (other != nullptr && other.get() != &plan && other->awaits_commit()) other->supersede();
  drafting_ = std::static_pointer_cast<Plan>(plan.shared_from_this());
}

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
  HYBRIDATTN_TRY(check_drafts(nullptr, batch.shape()));
  view_rows(batch, rows_);
  HYBRIDATTN_TRY(check_rows(rows_));
  HYBRIDATTN_TRY(reserve(batch.num_tokens()));
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> made, new_plan(batch.shape(), /*recordable=*/false));
  HYBRIDATTN_TRY(upload_rows(*made, rows_));
  remember(*made, rows_, batch.num_rows(), batch.id(), batch.mode());
  claim_drafts(*made);
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
    plan.verify_rows_.push_back({row.index, row.new_tokens, row.first_token, row.slot, row.computed,
                                 plan.draft_parents_.size()});
    for (std::int32_t i = 0; i < row.new_tokens; ++i) {
      plan.draft_parents_.push_back(row.parents.empty() ? i - 1
                                                        : row.parents[static_cast<std::size_t>(i)]);
    }
  }
}

/// A plan with room for all that it can remember. No shape is too large to be refused.
Result<std::shared_ptr<Plan>> AttentionBackend::new_plan(const GraphShape& shape, bool recordable) {
  try {
    HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> made, make_plan(shape, recordable));
    made->reserve_drafts();
    return made;
  } catch (const std::exception&) {  // bad_alloc, length_error
    return error(StatusCode::kResourceExhausted, name(), ": there is no memory for a plan of ",
                 backend::total_rows(shape), " rows, ", shape.tokens, " tokens and ", shape.pages,
                 " pages");
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
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> made, new_plan(shape, /*recordable=*/true));
  rows_.reserve(static_cast<std::size_t>(backend::total_rows(shape)));
  HYBRIDATTN_TRY(upload_rows(*made, {}));
  return made;
}

Status AttentionBackend::check_fits(const Plan& plan, const GraphShape& has) const {
  const auto excess = backend::shape_excess(has, plan.shape());
  if (!excess.has_value()) return {};
  return error(StatusCode::kOutOfRange, name(), "::replan: the step has ", excess->has, " ",
               excess->what, ", the plan was made for at most ", excess->room);
}

/// All index arrays of a plan go to the device as one.
Status AttentionBackend::upload_rows(Plan& plan, std::span<const RowView> rows) {
  UploadScope uploads(context());
  HYBRIDATTN_TRY(write_rows(plan, rows));
  return uploads.send();
}

Status AttentionBackend::rewrite(Plan& plan, const GraphShape& shape, std::span<const RowView> rows,
                                 std::int32_t num_rows, std::uint64_t batch_id, ForwardMode mode) {
  if (!plan.recordable()) {
    return error(StatusCode::kFailedPrecondition, name(),
                 "::replan: the plan is that of a single step, must be one of plan_graph");
  }
  if (plan.backend_id() != id_) return check_plan(plan);
  HYBRIDATTN_TRY(check_fits(plan, shape));
  HYBRIDATTN_TRY(check_drafts(&plan, shape));
  HYBRIDATTN_TRY(check_rows(rows));
  if (const Status written = upload_rows(plan, rows); !written.ok()) {
    plan.supersede();  // some of its arrays are this step's, some the last one's
    return written;
  }
  remember(plan, rows, num_rows, batch_id, mode);
  claim_drafts(plan);
  return {};
}

Status AttentionBackend::move_accepted(Plan&, std::span<const AcceptedRow>) { return {}; }

Status AttentionBackend::check_commit(const Plan& plan,
                                      std::span<const std::int32_t> last_accepted) const {
  HYBRIDATTN_TRY(check_plan(plan));
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
    if (last >= 0 && !plan.ran()) {
      return error(StatusCode::kFailedPrecondition, name(), "::commit: row ", verify.row,
                   ": last_accepted is ", last, " and the plan has not run, must be -1 (none)");
    }
  }
  return {};
}

/// Rows of a table are those that the plan was made for, unless they have ended.
Status AttentionBackend::check_commit_rows(const Plan& plan, const RequestTable& table,
                                           std::span<const Handle> rows,
                                           std::span<const std::int32_t> last_accepted) const {
  if (rows.size() != last_accepted.size()) {
    return invalid_argument(name(), "::commit: rows has ", rows.size(),
                            " entries, must have one for each of ", last_accepted.size(),
                            " rows of the batch");
  }
  for (const Plan::VerifyRow& verify : plan.verify_rows_) {
    const Handle& row = rows[static_cast<std::size_t>(verify.row)];
    if (!table.is_open(row)) continue;
    const bool same_slot = table.slot_id(row) == kPadIndex || table.slot_id(row) == verify.slot;
    if (!same_slot || table.computed(row) != verify.computed) {
      return invalid_argument(name(), "::commit: row ", verify.row, " is given table row ",
                              row.index, " with slot ", table.slot_id(row), " and ",
                              table.computed(row), " tokens, was planned with slot ", verify.slot,
                              " and ", verify.computed);
    }
    if (table.room(row) < verify.computed + verify.tokens) {
      return invalid_argument(name(), "::commit: row ", verify.row, " has room for ",
                              table.room(row), " tokens in the table, was planned with ",
                              verify.computed + verify.tokens);
    }
  }
  return {};
}

/// The accepted path of each verify row, from its first token on; none where the row of the table
/// has ended.
void AttentionBackend::find_paths(Plan& plan, std::span<const std::int32_t> last_accepted,
                                  const RequestTable* table, std::span<const Handle> rows) {
  std::vector<std::int32_t>& paths = plan.accepted_paths_;
  plan.accepted_.clear();
  paths.clear();
  for (const Plan::VerifyRow& verify : plan.verify_rows_) {
    const std::size_t begin = paths.size();
    const auto row = static_cast<std::size_t>(verify.row);
    const bool ended = table != nullptr && !table->is_open(rows[row]);
    for (std::int32_t t = ended ? -1 : last_accepted[row]; t >= 0;
         t = plan.draft_parents_[verify.parents + static_cast<std::size_t>(t)]) {
      paths.push_back(t);
    }
    std::reverse(paths.begin() + static_cast<std::ptrdiff_t>(begin), paths.end());
    plan.accepted_.push_back({verify.first_token, {paths.data() + begin, paths.size() - begin}});
  }
}

Status AttentionBackend::commit(Plan& plan, std::span<const std::int32_t> last_accepted) {
  HYBRIDATTN_TRY(check_commit(plan, last_accepted));
  find_paths(plan, last_accepted, nullptr, {});
  HYBRIDATTN_TRY(move_accepted(plan, plan.accepted_));
  plan.committed_ = true;
  return {};
}

Status AttentionBackend::commit(Plan& plan, RequestTable& table, std::span<const Handle> rows,
                                std::span<const std::int32_t> last_accepted) {
  HYBRIDATTN_TRY(check_commit(plan, last_accepted));
  HYBRIDATTN_TRY(check_commit_rows(plan, table, rows, last_accepted));
  find_paths(plan, last_accepted, &table, rows);
  HYBRIDATTN_TRY(move_accepted(plan, plan.accepted_));
  plan.committed_ = true;
  for (std::size_t i = 0; i < plan.accepted_.size(); ++i) {
    const auto tokens = static_cast<std::int32_t>(plan.accepted_[i].path.size());
    const Handle& row = rows[static_cast<std::size_t>(plan.verify_rows_[i].row)];
    if (tokens > 0) HYBRIDATTN_TRY(table.advance(row, tokens));
  }
  return {};
}

Status AttentionBackend::replan(Plan& plan, const ForwardBatch& batch) {
  // Before the rows are viewed: there is room for no more than the plan holds.
  if (plan.recordable()) HYBRIDATTN_TRY(check_fits(plan, batch.shape()));
  view_rows(batch, rows_);
  return rewrite(plan, batch.shape(), rows_, batch.num_rows(), batch.id(), batch.mode());
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
