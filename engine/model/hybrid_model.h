// HybridModel: the forward pass of Qwen3.5, Qwen3-Next and their kin over an attention backend.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/model/arena.h"
#include "engine/model/weights.h"
#include "engine/ops/moe.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::engine {

/// Not thread-safe: one forward pass at a time, on the context's thread.
class HybridModel {
 public:
  /// `dtype` is what enters the matrix products: f32, or bf16. All else (the residual stream,
  /// norms, gates, what a product gives) is float32 in both. A mixture of experts always takes f32:
  /// which experts a token gets is a step function, and activations rounded to bf16 flip it often
  /// enough to be seen in the logits. `context` is borrowed.
  HybridModel(Context& context, ModelConfig config, std::unique_ptr<ModelWeights> weights,
              DType dtype);

  const ModelConfig& config() const noexcept { return config_; }
  const ModelWeights& weights() const noexcept { return *weights_; }
  /// What enters the products.
  DType dtype() const noexcept { return dtype_; }

  /// What caches for this model look like.
  PagedKvShape kv_shape(std::int32_t page_size, DType kv_dtype) const;
  GdnStateShape state_shape(DType state_dtype) const;
  std::set<std::int32_t> full_attention_layers() const;
  /// The layers of each kind, for backends to check.
  std::vector<RadixAttention> attention_layers() const;
  std::vector<RadixLinearAttention> gdn_layers() const;

  /// Memory for the activations of steps of up to `tokens` tokens.
  std::size_t activation_bytes(std::int64_t tokens) const;
  Status reserve(std::int64_t tokens);
  /// Changes when `reserve` moved the buffers: graphs recorded before name memory that is gone.
  std::uint64_t buffers_version() const noexcept { return buffers_version_; }

  /// The inputs of the next step: `ids` are the new tokens of all rows in order, pad rows'
  /// included. What a padded step has behind them becomes id 0 at position 0. Errors:
  /// invalid_argument (number of ids), out_of_range (an id); resource_exhausted for more tokens
  /// than were reserved for.
  Status set_inputs(const ForwardBatch& batch, std::span<const std::int32_t> ids);
  /// All layers, for the tokens of the plan. Can be recorded: it reads and writes reserved buffers.
  Status run(const Plan& plan, AttentionBackend& backend);

  /// Both, for a step that is not recorded: plans it on the backend, reserves and runs. The plan is
  /// for a commit. Errors: as set_inputs, and those of the backend.
  Result<std::shared_ptr<Plan>> forward(const ForwardBatch& batch, AttentionBackend& backend,
                                        std::span<const std::int32_t> ids);

  /// Logits [tokens.size(), vocab] of some tokens of the last step, by their index in its stream.
  Status logits(std::span<const std::int32_t> tokens, float* out);
  /// Says which step comes before `logits` when it was a replay of `run`.
  void set_tokens(std::int64_t tokens) noexcept { tokens_ = tokens; }

  /// How many tokens one call of `logits` should take at most: it bounds the memory of the result.
  std::int64_t logits_block() const;

 private:
  Status prepare();
  Status reserve_products(std::int64_t rows);
  Status multiply(const ConstTensorView& x, const WeightMatrix& w, const TensorView& out,
                  bool accumulate = false);
  Status multiply_gated(const ConstTensorView& x, const MlpWeights& w, const TensorView& out);
  Status full_attention(const LayerWeights& w, const RadixAttention& layer, const Plan& plan,
                        AttentionBackend& backend);
  Status gated_delta_net(const LayerWeights& w, const RadixLinearAttention& layer, const Plan& plan,
                         AttentionBackend& backend);
  Status mlp(const LayerWeights& w);
  Status moe(const LayerWeights& w);
  Status routed_experts(const MoeWeights& w, const struct MoeBuffers& buffers,
                        const TensorView& normed);
  Status shared_expert(const MoeWeights& w, const struct MoeBuffers& buffers,
                       const TensorView& normed, const TensorView& hidden);
  Status run_experts(const MoeWeights& w, const struct MoeBuffers& buffers);

  Context& context_;
  ModelConfig config_;
  std::unique_ptr<ModelWeights> weights_;
  DType dtype_;                            // of what enters a product
  std::vector<RadixAttention> attention_;  // by layer; unused for GDN layers
  std::vector<RadixLinearAttention> gdn_;  // by layer; unused for attention layers
  Arena arena_;
  Routing routing_;
  std::vector<std::int32_t> ids_;        // [reserved tokens]
  std::vector<std::int64_t> positions_;  // [reserved tokens]
  std::uint64_t buffers_version_ = 0;
  std::int64_t tokens_ = 0;  // of the last step
};

}  // namespace hybridattn::engine
