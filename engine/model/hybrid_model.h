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

  /// Memory for the activations of steps of up to `tokens` tokens.
  std::size_t activation_bytes(std::int64_t tokens) const;
  Status reserve(std::int64_t tokens);

  /// One step: plans the batch on the backend and runs all layers. `ids` are the new tokens of all
  /// rows in order, pad rows' included. Errors: invalid_argument (number of ids), out_of_range (an
  /// id), and those of the backend.
  Status forward(const ForwardBatch& batch, AttentionBackend& backend,
                 std::span<const std::int32_t> ids);

  /// Logits [tokens.size(), vocab] of some tokens of the last forward, by their index in its
  /// stream.
  Status logits(std::span<const std::int32_t> tokens, float* out);

  /// How many tokens one call of `logits` should take at most: it bounds the memory of the result.
  std::int64_t logits_block() const;

 private:
  Status run_layers(const ForwardBatch& batch, AttentionBackend& backend);
  Status full_attention(const LayerWeights& w, const RadixAttention& layer,
                        const ForwardBatch& batch, AttentionBackend& backend);
  Status gated_delta_net(const LayerWeights& w, const RadixLinearAttention& layer,
                         const ForwardBatch& batch, AttentionBackend& backend);
  Status mlp(const LayerWeights& w);
  Status moe(const LayerWeights& w);
  Status run_experts(const MoeWeights& w, const struct MoeBuffers& buffers);
  Status rotary_tables(const ForwardBatch& batch);

  Context& context_;
  ModelConfig config_;
  std::unique_ptr<ModelWeights> weights_;
  DType dtype_;                            // of what enters a product
  std::vector<RadixAttention> attention_;  // by layer; unused for GDN layers
  std::vector<RadixLinearAttention> gdn_;  // by layer; unused for attention layers
  Arena arena_;
  Routing routing_;
  std::vector<std::int64_t> positions_;
  std::int64_t tokens_ = 0;  // of the last forward
};

}  // namespace hybridattn::engine
