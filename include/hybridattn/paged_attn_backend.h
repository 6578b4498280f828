// PagedAttnBackend: full attention over a paged KV cache.
#pragma once

#include <memory>
#include <vector>

#include "hybridattn/attention_backend.h"

namespace hybridattn {

namespace backend {
class StepUses;
}

/// Keys and values of all attention layers, the caller's memory. Layer i of the cache is that with
/// kv_index i; all layers share page ids, page count and page size.
struct PagedKvView {
  std::vector<TensorView> k;  ///< [layers] of [pages, page_size, HK, D]
  std::vector<TensorView> v;  ///< [layers] of [pages, page_size, HK, DV]
};

/// Prefill, decode and mixed rows in any order over pages of any size. New keys and values are
/// normalised, rotated and stored where the call asks for it, then attended to.
class HYBRIDATTN_API PagedAttnBackend final : public AttentionBackend {
 public:
  /// `context` is borrowed and must outlive the backend. Errors: invalid_argument when the layers
  /// of the cache do not agree.
  static Result<std::unique_ptr<PagedAttnBackend>> create(Context& context, PagedKvView cache);

  ~PagedAttnBackend() override;

  std::string_view name() const noexcept override { return "PagedAttnBackend"; }
  Status reserve(std::int32_t max_tokens) override;
  Status run_attention(const Plan& plan, const RadixAttention& layer,
                       const AttentionRunArgs& args) override;

  /// What `plan` reserves room for, so that no run allocates: the widest layer that will be run.
  /// Without this call the first run of each larger shape may grow the workspace.
  void set_widest_layer(std::int32_t num_heads, std::int32_t num_kv_heads, std::int32_t head_dim,
                        std::int32_t v_head_dim);

  Result<std::shared_ptr<Plan>> make_plan(const GraphShape& shape, bool recordable) override;
  Status check_rows(std::span<const RowView> rows) override;
  void write_rows(Plan& plan, std::span<const RowView> rows) override;
  Status move_accepted(const Plan& plan, std::span<const std::int32_t> accepted) override;

 private:
  PagedAttnBackend(Context& context, PagedKvView cache);
  Context& context_;
  PagedKvView cache_;
  RadixAttention widest_;
  std::unique_ptr<backend::StepUses> uses_;
};

}  // namespace hybridattn
