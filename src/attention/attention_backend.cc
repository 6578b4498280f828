// The upstream verbs, once for all backends.
#include "hybridattn/attention_backend.h"

#include "hybridattn/status_macros.h"

namespace hybridattn {

Plan::Plan(const ForwardBatch& batch)
    : batch_id_(batch.id()), num_tokens_(batch.num_tokens()), mode_(batch.mode()) {}

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

Status AttentionBackend::init_forward_metadata(const ForwardBatch& batch) {
  HYBRIDATTN_ASSIGN(std::unique_ptr<Plan> planned, plan(batch));
  current_ = std::move(planned);
  return {};
}

Status AttentionBackend::check_current(const char* verb, const ForwardBatch& batch) const {
  if (current_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, name(), "::", verb,
                 ": no batch is planned; call init_forward_metadata first");
  }
  if (current_->batch_id() != batch.id()) {
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
