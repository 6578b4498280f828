// GDNAttnBackend: Gated DeltaNet over a pool of recurrent states.
#pragma once

#include <memory>
#include <vector>

#include "hybridattn/attention_backend.h"
#include "hybridattn/ops/copy_slots.h"

namespace hybridattn {

namespace backend {
class PlacedGdnStep;
class StepUses;
}  // namespace backend

/// States of all GDN layers, the caller's memory. Layer i is that with gdn_index i; all layers
/// share slot ids.
struct GdnStateView {
  std::vector<TensorView> recurrent;  ///< [layers] of [slots, HV, V, K] f32 or bf16
  std::vector<TensorView> conv;       ///< [layers] of [slots, C, W-1]
};

/// Convolution, gates, delta rule and gated norm for rows of any kinds: decode rows go through the
/// step, prefill rows through the chunked form, verify rows through the step with every state kept.
/// On CUDA one kernel does a layer's decode rows and one its verify rows, where the device has them
/// for these shapes, and plans hold their arrays on the device.
class HYBRIDATTN_API GDNAttnBackend final : public AttentionBackend {
 public:
  /// `context` is borrowed and must outlive the backend. `kept` holds the states after each token
  /// of verify rows until they are committed: the same layers with any number of slots, one for
  /// each such token of a step; without it there are no verify rows. Errors: invalid_argument when
  /// the layers of the pools do not agree; unsupported for bf16 states in a chunk_invariant
  /// context.
  static Result<std::unique_ptr<GDNAttnBackend>> create(Context& context, GdnStateView states,
                                                        GdnStateView kept = {});

  ~GDNAttnBackend() override;

  std::string_view name() const noexcept override { return "GDNAttnBackend"; }
  Context& context() noexcept override { return context_; }
  Status reserve(std::int32_t max_tokens) override;
  Status run_gdn(const Plan& plan, const RadixLinearAttention& layer,
                 const GdnRunArgs& args) override;

  /// The layers that will be run, copied: checked now against the pool, and `plan` reserves room
  /// for the widest, so that no run allocates. On CUDA activations are taken to be of the type of
  /// the convolution's states. Without this call a layer is checked when it is run. Errors:
  /// invalid_argument, out_of_range, unsupported, naming the layer.
  Status set_layers(std::span<const RadixLinearAttention> layers);

  Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) override;
  Status check_rows(std::span<const RowView> rows) override;
  Status write_rows(Plan& plan, std::span<const RowView> rows) override;
  Status move_accepted(Plan& plan, std::span<const AcceptedRow> accepted) override;

 private:
  GDNAttnBackend(Context& context, GdnStateView states, GdnStateView kept);
  Context& context_;
  GdnStateView states_;
  GdnStateView kept_;
  std::vector<SlotPool> commit_pools_;  // both states of all layers, from those kept
  Status check_layer(const RadixLinearAttention& layer) const;
  Result<std::shared_ptr<backend::PlacedGdnStep>> place_step(const GraphShape& shape,
                                                             bool recordable);
  Status reserve_layers(const Plan& plan);
  std::unique_ptr<backend::StepUses> uses_;
  bool channel_decay_ = false;                                  // in some layer
  std::vector<RadixLinearAttention> layers_;                    // those set
  std::vector<std::shared_ptr<backend::PlacedGdnStep>> spare_;  // of single steps, on CUDA
};

}  // namespace hybridattn
