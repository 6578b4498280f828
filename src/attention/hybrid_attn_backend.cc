#include "hybridattn/hybrid_attn_backend.h"

#include "hybridattn/status_macros.h"

namespace hybridattn {
namespace {

struct HybridPlan final : Plan {
  HybridPlan(std::uint64_t backend, const GraphShape& shape, bool recordable,
             std::shared_ptr<Plan> full_plan, std::shared_ptr<Plan> gdn_plan)
      : Plan(backend, shape, recordable), full(std::move(full_plan)), gdn(std::move(gdn_plan)) {}

  /// Graphs hold the two, not this.
  bool ran() const noexcept override { return full->ran() || gdn->ran(); }
  void supersede() noexcept override {
    GraphInput::supersede();
    full->supersede();
    gdn->supersede();
  }

  std::shared_ptr<Plan> full;
  std::shared_ptr<Plan> gdn;
};

}  // namespace

HybridAttnBackend::HybridAttnBackend(std::unique_ptr<AttentionBackend> full,
                                     std::unique_ptr<AttentionBackend> gdn,
                                     std::set<std::int32_t> ids)
    : full_(std::move(full)), gdn_(std::move(gdn)), full_ids_(std::move(ids)) {}

Result<std::unique_ptr<HybridAttnBackend>> HybridAttnBackend::create(
    std::unique_ptr<AttentionBackend> full_attn_backend,
    std::unique_ptr<AttentionBackend> gdn_backend, std::set<std::int32_t> full_attn_layer_ids) {
  if (full_attn_backend == nullptr) {
    return invalid_argument("HybridAttnBackend: full_attn_backend is null");
  }
  if (gdn_backend == nullptr) return invalid_argument("HybridAttnBackend: gdn_backend is null");
  if (!full_attn_layer_ids.empty() && *full_attn_layer_ids.begin() < 0) {
    return invalid_argument("HybridAttnBackend: full_attn_layer_ids holds ",
                            *full_attn_layer_ids.begin(), ", must be at least 0");
  }
  return std::unique_ptr<HybridAttnBackend>(new HybridAttnBackend(
      std::move(full_attn_backend), std::move(gdn_backend), std::move(full_attn_layer_ids)));
}

Result<std::shared_ptr<Plan>> HybridAttnBackend::make_plan(const GraphShape& shape,
                                                           bool recordable) {
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> full, full_->make_plan(shape, recordable));
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> gdn, gdn_->make_plan(shape, recordable));
  return std::shared_ptr<Plan>(
      std::make_shared<HybridPlan>(id(), shape, recordable, std::move(full), std::move(gdn)));
}

Status HybridAttnBackend::check_rows(std::span<const RowView> rows) {
  HYBRIDATTN_TRY(full_->check_rows(rows));
  return gdn_->check_rows(rows);
}

Status HybridAttnBackend::write_rows(Plan& base, std::span<const RowView> rows) {
  auto& plan = static_cast<HybridPlan&>(base);
  HYBRIDATTN_TRY(full_->write_rows(*plan.full, rows));
  HYBRIDATTN_TRY(gdn_->write_rows(*plan.gdn, rows));
  plan.set_written();
  return {};
}

Status HybridAttnBackend::move_accepted(Plan& base, std::span<const AcceptedRow> accepted) {
  HYBRIDATTN_TRY(check_plan(base));
  const auto* plan = static_cast<const HybridPlan*>(&base);
  HYBRIDATTN_TRY(full_->move_accepted(*plan->full, accepted));
  return gdn_->move_accepted(*plan->gdn, accepted);
}

Status HybridAttnBackend::reserve(std::int32_t max_tokens) {
  HYBRIDATTN_TRY(full_->reserve(max_tokens));
  return gdn_->reserve(max_tokens);
}

Status HybridAttnBackend::run_attention(const Plan& base, const RadixAttention& layer,
                                        const AttentionRunArgs& args) {
  HYBRIDATTN_TRY(check_plan(base));
  const auto* plan = static_cast<const HybridPlan*>(&base);
  if (full_ids_.count(layer.layer_id) == 0) {
    return invalid_argument("HybridAttnBackend: full attention was called for layer ",
                            layer.layer_id, ", which is not in full_attn_layer_ids");
  }
  return full_->run_attention(*plan->full, layer, args);
}

Status HybridAttnBackend::run_gdn(const Plan& base, const RadixLinearAttention& layer,
                                  const GdnRunArgs& args) {
  HYBRIDATTN_TRY(check_plan(base));
  const auto* plan = static_cast<const HybridPlan*>(&base);
  if (full_ids_.count(layer.layer_id) != 0) {
    return invalid_argument("HybridAttnBackend: forward_gdn was called for layer ", layer.layer_id,
                            ", which is in full_attn_layer_ids");
  }
  return gdn_->run_gdn(*plan->gdn, layer, args);
}

}  // namespace hybridattn
