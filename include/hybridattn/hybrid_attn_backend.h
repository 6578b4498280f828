// HybridAttnBackend: one plan a step for models whose layers are of both kinds.
#pragma once

#include <memory>
#include <set>

#include "hybridattn/gdn_attn_backend.h"
#include "hybridattn/paged_attn_backend.h"

namespace hybridattn {

/// Holds no kernel and no state: plans both backends, full attention first, and delegates every
/// verb. The layer ids are checked: a full-attention call for a GDN layer is an error, and the
/// reverse.
class HYBRIDATTN_API HybridAttnBackend final : public AttentionBackend {
 public:
  /// Takes both backends over. `full_attn_layer_ids` are the layer_ids of the full-attention
  /// layers. Errors: invalid_argument for a null backend or a negative id.
  static Result<std::unique_ptr<HybridAttnBackend>> create(
      std::unique_ptr<AttentionBackend> full_attn_backend,
      std::unique_ptr<AttentionBackend> gdn_backend, std::set<std::int32_t> full_attn_layer_ids);

  std::string_view name() const noexcept override { return "HybridAttnBackend"; }
  Context& context() noexcept override { return full_->context(); }
  Status reserve(std::int32_t max_tokens) override;
  Status run_attention(const Plan& plan, const RadixAttention& layer,
                       const AttentionRunArgs& args) override;
  Status run_gdn(const Plan& plan, const RadixLinearAttention& layer,
                 const GdnRunArgs& args) override;

  AttentionBackend& full_attn_backend() noexcept { return *full_; }
  AttentionBackend& gdn_backend() noexcept { return *gdn_; }
  const std::set<std::int32_t>& full_attn_layer_ids() const noexcept { return full_ids_; }

  Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) override;
  Status check_rows(std::span<const RowView> rows) override;
  Status write_rows(Plan& plan, std::span<const RowView> rows) override;
  Status move_accepted(Plan& plan, std::span<const AcceptedRow> accepted) override;

 private:
  HybridAttnBackend(std::unique_ptr<AttentionBackend> full, std::unique_ptr<AttentionBackend> gdn,
                    std::set<std::int32_t> ids);
  std::unique_ptr<AttentionBackend> full_;
  std::unique_ptr<AttentionBackend> gdn_;
  std::set<std::int32_t> full_ids_;
};

}  // namespace hybridattn
