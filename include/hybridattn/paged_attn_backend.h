// PagedAttnBackend: full attention over a paged KV cache.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "hybridattn/attention_backend.h"
#include "hybridattn/device_attention_rows.h"

namespace hybridattn {

namespace backend {
class PlacedStep;
class StepUses;
}  // namespace backend

/// Keys and values of all attention layers, the caller's memory. Layer i of the cache is that with
/// kv_index i; all layers share page ids, page count and page size.
struct PagedKvView {
  std::vector<TensorView> k;  ///< [layers] of [pages, page_size, HK, D]
  std::vector<TensorView> v;  ///< [layers] of [pages, page_size, HK, DV]
};

struct PagedAttnOptions {
  /// CUDA: as AttentionLimits::shared_prefixes, for the rows of every step. Refused with
  /// batch_invariant; of no effect on the CPU.
  bool shared_prefixes = false;
  std::int32_t least_saved = 1024;  ///< as in AttentionLimits
};

/// Prefill, decode and mixed rows in any order over pages of any size. New keys and values are
/// normalised, rotated and stored where the call asks for it, then attended to.
class HYBRIDATTN_API PagedAttnBackend final : public AttentionBackend {
 public:
  /// `context` is borrowed and must outlive the backend. Errors: invalid_argument when the layers
  /// of the cache do not agree; unsupported.
  static Result<std::unique_ptr<PagedAttnBackend>> create(Context& context, PagedKvView cache,
                                                          const PagedAttnOptions& options = {});

  ~PagedAttnBackend() override;

  std::string_view name() const noexcept override { return "PagedAttnBackend"; }
  Context& context() noexcept override { return context_; }
  Status reserve(std::int32_t max_tokens) override;
  Status run_attention(const Plan& plan, const RadixAttention& layer,
                       const AttentionRunArgs& args) override;

  /// The layers that will be run, copied. They are checked now against the cache and against what
  /// this backend can do, `plan` refuses rows that one of them cannot serve, and it reserves room
  /// for the widest, so that no run allocates. Without this call a layer is checked when it is run,
  /// and the first run of a larger shape may grow the workspace. Errors: invalid_argument,
  /// out_of_range, unsupported (encoder-only and cross attention), naming the layer.
  Status set_layers(std::span<const RadixAttention> layers);

  Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) override;
  Status check_rows(std::span<const RowView> rows) override;
  Status write_rows(Plan& plan, std::span<const RowView> rows) override;
  Status move_accepted(Plan& plan, std::span<const AcceptedRow> accepted) override;

 private:
  PagedAttnBackend(Context& context, PagedKvView cache, const PagedAttnOptions& options);
  Context& context_;
  PagedAttnOptions options_;
  PagedKvView cache_;
  Status check_layer(const RadixAttention& layer) const;
  Result<std::shared_ptr<backend::PlacedStep>> place_step(const GraphShape& shape, bool recordable);
  std::size_t token_bytes_ = 0;      // of workspace, of the widest layer
  std::size_t worker_bytes_ = 0;     // of scratch
  std::int32_t bidirectional_ = -1;  // layer_id of one such layer, if any
  std::unique_ptr<backend::StepUses> uses_;
  std::vector<std::pair<AttentionHeads, std::int32_t>> kinds_;  // of the layers set, and head_dim
  std::vector<std::shared_ptr<backend::PlacedStep>> spare_;     // of single steps, on CUDA
};

}  // namespace hybridattn
