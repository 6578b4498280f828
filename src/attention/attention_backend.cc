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
    rows.push_back({row.kind, row.slot, row.pages, row.computed, row.new_tokens,
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
  remember(*made, rows_, batch.id(), batch.mode());
  return made;
}

/// What the plan itself knows of its step. Allocates nothing for a plan of plan_graph.
void AttentionBackend::remember(Plan& plan, std::span<const RowView> rows, std::uint64_t batch_id,
                                ForwardMode mode) {
  plan.batch_id_ = batch_id;
  plan.mode_ = mode;
  plan.committed_ = false;
  plan.num_rows_ = static_cast<std::int32_t>(rows.size());
  plan.verify_rows_.clear();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].kind != RowKind::kVerify) continue;
    plan.verify_rows_.push_back({static_cast<std::int32_t>(i), rows[i].new_tokens});
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
  made->verify_rows_.reserve(static_cast<std::size_t>(shape.verify_rows));
  write_rows(*made, {});
  return made;
}

Status AttentionBackend::check_fits(const Plan& plan, const GraphShape& has) const {
  const auto excess = backend::shape_excess(has, plan.shape());
  if (!excess.has_value()) return {};
  return error(StatusCode::kOutOfRange, name(), "::replan: the step has ", excess->has, " ",
               excess->what, ", the plan was made for at most ", excess->room);
}

Status AttentionBackend::rewrite(Plan& plan, std::span<const RowView> rows, std::uint64_t batch_id,
                                 ForwardMode mode) {
  if (!plan.recordable()) {
    return error(StatusCode::kFailedPrecondition, name(),
                 "::replan: the plan is that of a single step, must be one of plan_graph");
  }
  HYBRIDATTN_TRY(check_rows(rows));
  write_rows(plan, rows);
  remember(plan, rows, batch_id, mode);
  return {};
}

Status AttentionBackend::move_accepted(const Plan&, std::span<const std::int32_t>) { return {}; }

Status AttentionBackend::commit(Plan& plan, std::span<const std::int32_t> last_accepted) {
  if (plan.committed_) {
    return error(StatusCode::kFailedPrecondition, name(), "::commit: batch ", plan.batch_id_,
                 " was committed already");
  }
  if (last_accepted.size() != static_cast<std::size_t>(plan.num_rows_)) {
    return invalid_argument(name(), "::commit: last_accepted has ", last_accepted.size(),
                            " entries, must have one for each of ", plan.num_rows_, " rows");
  }
  accepted_.clear();
  for (const Plan::VerifyRow& verify : plan.verify_rows_) {
    const std::int32_t last = last_accepted[static_cast<std::size_t>(verify.row)];
    if (last < -1 || last >= verify.tokens) {
      return error(StatusCode::kOutOfRange, name(), "::commit: row ", verify.row,
                   ": last_accepted is ", last, ", must be -1 (none) or one of its ", verify.tokens,
                   " tokens");
    }
    accepted_.push_back(last);
  }
  HYBRIDATTN_TRY(move_accepted(plan, accepted_));
  plan.committed_ = true;
  return {};
}

Status AttentionBackend::replan(Plan& plan, const ForwardBatch& batch) {
  HYBRIDATTN_TRY(check_fits(plan, batch.shape()));
  view_rows(batch, rows_);
  return rewrite(plan, rows_, batch.id(), batch.mode());
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
