// GDNAttnBackend: Gated DeltaNet over a pool of recurrent states.
#pragma once

#include <memory>
#include <vector>

#include "hybridattn/attention_backend.h"

namespace hybridattn {

namespace backend {
class StepUses;
}

/// States of all GDN layers, the caller's memory. Layer i is that with gdn_index i; all layers
/// share slot ids.
struct GdnStateView {
  std::vector<TensorView> recurrent;  ///< [layers] of [slots, HV, V, K] f32 or bf16
  std::vector<TensorView> conv;       ///< [layers] of [slots, C, W-1]
};

/// Convolution, gates, delta rule and gated norm for rows of any kinds: decode rows go through the
/// step, prefill rows through the chunked form.
class HYBRIDATTN_API GDNAttnBackend final : public AttentionBackend {
 public:
  /// `context` is borrowed and must outlive the backend. Errors: invalid_argument when the layers
  /// of the pool do not agree.
  static Result<std::unique_ptr<GDNAttnBackend>> create(Context& context, GdnStateView states);

  ~GDNAttnBackend() override;

  std::string_view name() const noexcept override { return "GDNAttnBackend"; }
  Status reserve(std::int32_t max_tokens) override;
  Status run_gdn(const Plan& plan, const RadixLinearAttention& layer,
                 const GdnRunArgs& args) override;

  Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) override;
  Status check_rows(std::span<const RowView> rows) override;
  void write_rows(Plan& plan, std::span<const RowView> rows) override;

 private:
  GDNAttnBackend(Context& context, GdnStateView states);
  Context& context_;
  GdnStateView states_;
  std::unique_ptr<backend::StepUses> uses_;
};

}  // namespace hybridattn
