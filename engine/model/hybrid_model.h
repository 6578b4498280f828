// HybridModel: the forward pass of Qwen3.5, Qwen3-Next and their kin over an attention backend.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/model/arena.h"
#include "engine/model/chosen_tokens.h"
#include "engine/model/step_inputs.h"
#include "engine/model/weights.h"
#include "engine/ops/draw.h"
#include "engine/ops/moe.h"
#include "engine/parallel/communicator.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::engine {

/// Not thread-safe: one forward pass at a time, on the context's thread. Of several ranks each has
/// its part: all make the same calls, and what they add to the residual stream is summed over them,
/// so that it, the logits and what they say are the same bits on all.
class HybridModel {
 public:
  /// `dtype` is what enters the matrix products: f32, or bf16. All else (the residual stream,
  /// norms, gates, what a product gives) is float32 in both. A mixture of experts always takes f32:
  /// which experts a token gets is a step function, and activations rounded to bf16 flip it often
  /// enough to be seen in the logits. `context` is borrowed, and `communicator`: nullptr where one
  /// rank has all of the model, else `config` and `weights` are those of its rank.
  HybridModel(Context& context, ModelConfig config, std::unique_ptr<ModelWeights> weights,
              DType dtype, Communicator* communicator = nullptr);

  /// What enters the products where `dtype` is asked for: see the constructor.
  static DType product_dtype(const ModelConfig& config, DType dtype);

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
  /// Of several ranks: sums of all sizes that were reserved for, since their first calls make what
  /// connects them, which is not to happen while steps are recorded. Errors: of the communicator.
  Status connect_ranks();
  /// Changes when `reserve` moved the buffers: graphs recorded before name memory that is gone.
  std::uint64_t buffers_version() const noexcept { return buffers_version_; }

  /// The inputs of the next step: `ids` are the new tokens of all rows in order, pad rows'
  /// included. An id may be the chosen_id of a place of the last Choices, which need not be read
  /// yet. What a padded step has behind them becomes id 0 at position 0. Errors: invalid_argument
  /// (number of ids), out_of_range (an id); resource_exhausted for more tokens than were reserved
  /// for.
  Status set_inputs(const ForwardBatch& batch, std::span<const std::int32_t> ids);
  /// All layers, for the tokens of the plan. Can be recorded: it reads and writes reserved buffers.
  Status run(const Plan& plan, AttentionBackend& backend);

  /// The same and, on a GPU for up to logits_block() rows of one token, the logits of all of them
  /// and what they say, so that one replay gives the next tokens. set_limits comes before each
  /// replay.
  Status run_to_tokens(const Plan& plan, AttentionBackend& backend);
  /// The ids that the next tokens of a replay stay below, from its first token on; the model's
  /// vocabulary for the others. Errors: device_error; out_of_range for more than logits_block().
  Status set_limits(std::span<const std::int32_t> limits);

  /// What comes before `run` in a step that is not recorded: makes room, sets the inputs and plans
  /// it on the backend. Errors: as set_inputs, and those of the backend.
  Result<std::shared_ptr<Plan>> prepare_step(const ForwardBatch& batch, AttentionBackend& backend,
                                             std::span<const std::int32_t> ids);
  /// Both, for one rank. The plan is for a commit. Errors: the same.
  Result<std::shared_ptr<Plan>> forward(const ForwardBatch& batch, AttentionBackend& backend,
                                        std::span<const std::int32_t> ids);

  /// Logits [tokens.size(), vocab] of some tokens of the last step, by their index in its stream.
  /// `out` is the host's, who may read it at once; nullptr where another rank's are read: then this
  /// one takes its part in them and waits for it.
  Status logits(std::span<const std::int32_t> tokens, float* out);
  /// On a GPU: orders the choice of the next tokens where the logits lie, of each by draws[i]. As
  /// many tokens as for logits(), at most. Where the largest logits are asked for, the limits of a
  /// replay were those of set_limits. Errors: as above; failed_precondition on the CPU.
  Result<Choices> choose(std::span<const std::int32_t> tokens, std::span<const Draw> draws);
  /// Waits for what was chosen, of the last two calls of `choose`, and for nothing behind it; by
  /// the places of the choices. Errors: device_error; failed_precondition for older ones.
  Result<std::span<const NextToken>> chosen(const Choices& choices) {
    return chosen_.receive(choices.step);
  }
  /// Says which step comes before `logits` when it was a replay of `run_to_tokens`.
  void set_replayed(const Plan& plan) noexcept {
    tokens_ = plan.num_tokens();
    knows_logits_ = has_head(plan);
  }

  /// How many tokens one call of `logits` should take at most: it bounds the memory of the result.
  std::int64_t logits_block() const;

 private:
  Status prepare();
  /// Whether run_to_tokens goes on to the logits.
  bool has_head(const Plan& plan) const;
  /// Norm, logits and the largest of each, of hidden rows: [M, H] f32, which lie in the arena.
  Result<TensorView> head(const TensorView& hidden, float* out);
  Status choose_largest(const TensorView& logits);
  /// Each row of logits in `rows` by its draw.
  Status draw(const TensorView& logits, std::span<const std::int32_t> rows,
              std::span<const Draw> draws);
  /// All logits of the last replay, where it left them.
  TensorView replayed_logits();
  Status check_logits_tokens(std::span<const std::int32_t> tokens) const;
  /// The logits where the context's device has them, the arena's or `out`.
  Result<TensorView> compute_logits(std::span<const std::int32_t> tokens, float* out);
  Status reserve_products(std::int64_t rows);
  Status multiply(const ConstTensorView& x, const WeightMatrix& w, const TensorView& out,
                  bool accumulate = false);
  /// hidden += x w^T over all ranks, each of which has columns of w. Where the products of few rows
  /// can, it hands `next_norm` on to the next one.
  Status add_product(const ConstTensorView& x, const WeightMatrix& w,
                     const struct ResidualBuffers& residual, const ConstTensorView& next_norm);
  /// Whether this rank's part of such a sum has what was in `hidden` before.
  bool keeps_hidden() const { return communicator_ == nullptr || communicator_->rank() == 0; }
  Status sum_over_ranks(const TensorView& hidden);
  /// x of the product behind a norm of the residual stream, on a device: handed on, or before it.
  LinearArgs behind_norm(const struct ResidualBuffers& residual, const ConstTensorView& norm) const;
  /// out = norm(x) w^T in one call, for weights that were moved.
  Status multiply_normed(const struct ResidualBuffers& residual, const ConstTensorView& norm,
                         const WeightMatrix& w, const TensorView& out);
  Status multiply_gated(const ConstTensorView& x, const MlpWeights& w, const TensorView& out);
  Status normalize(const ConstTensorView& x, const ConstTensorView& norm, const TensorView& out);
  Status full_attention(const LayerWeights& w, const RadixAttention& layer, const Plan& plan,
                        AttentionBackend& backend);
  Status gated_delta_net(const LayerWeights& w, const RadixLinearAttention& layer, const Plan& plan,
                         AttentionBackend& backend);
  Status mlp(const LayerWeights& w, const ConstTensorView& next_norm);
  Status moe(const LayerWeights& w);
  Status routed_experts(const MoeWeights& w, const struct MoeBuffers& buffers,
                        const TensorView& normed);
  Status shared_expert(const MoeWeights& w, const struct MoeBuffers& buffers,
                       const TensorView& normed, const TensorView& hidden);
  Status run_experts(const MoeWeights& w, const struct MoeBuffers& buffers);
  Status add_experts(const MoeWeights& w, const struct MoeBuffers& buffers,
                     const TensorView& normed, const TensorView& hidden);
  Status experts_on_device(const MoeWeights& w, const struct MoeBuffers& buffers,
                           const TensorView& normed, const TensorView& hidden);

  Context& context_;
  ModelConfig config_;
  std::unique_ptr<ModelWeights> weights_;
  Communicator* communicator_;             // nullptr: one rank
  DType dtype_;                            // of what enters a product
  std::vector<RadixAttention> attention_;  // by layer; unused for GDN layers
  std::vector<RadixLinearAttention> gdn_;  // by layer; unused for attention layers
  Arena arena_;
  Routing routing_;
  StepInputs inputs_;
  StepArray<std::int32_t> wanted_;  // tokens whose logits are wanted
  StepArray<std::int32_t> limits_;  // of each
  StepArray<Draw> draws_;           // of each, where not all are greedy
  ChosenTokens chosen_;             // what they say
  std::uint64_t buffers_version_ = 0;
  std::int64_t tokens_ = 0;    // of the last step
  bool knows_logits_ = false;  // of all of them, as it was a replay that went on to them
  bool hands_on_ = false;      // the last product of the residual stream did so with its norm
};

}  // namespace hybridattn::engine
