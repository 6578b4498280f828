#include "engine/model/hybrid_model.h"

#include <algorithm>
#include <cmath>

#include "engine/model/activations.h"
#include "engine/ops/embedding.h"
#include "engine/ops/zero.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

RadixAttention attention_layer(const ModelConfig& c, std::int32_t layer, std::int32_t kv_index) {
  RadixAttention out;
  out.layer_id = layer;
  out.kv_index = kv_index;
  out.num_heads = c.num_attention_heads;
  out.num_kv_heads = c.num_key_value_heads;
  out.head_dim = c.head_dim;
  out.v_head_dim = c.head_dim;
  out.scaling = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  return out;
}

RadixLinearAttention gdn_layer(const ModelConfig& c, const GdnWeights& w, std::int32_t layer,
                               std::int32_t gdn_index) {
  RadixLinearAttention out;
  out.layer_id = layer;
  out.gdn_index = gdn_index;
  out.num_k_heads = c.linear_num_key_heads;
  out.num_v_heads = c.linear_num_value_heads;
  out.head_k_dim = c.linear_key_head_dim;
  out.head_v_dim = c.linear_value_head_dim;
  out.conv_weight = w.conv;
  out.a_log = w.a_log;
  out.dt_bias = w.dt_bias;
  return out;
}

/// [T, H, D] as [T, H * D], for products.
TensorView flat(const TensorView& view) {
  return view.at(0, {view.dim(0), view.dim(1) * view.dim(2)}, {view.stride(0), 1});
}

/// The norm that the product out of attention may hand on: experts take theirs as it is.
ConstTensorView norm_before_mlp(const LayerWeights& w) {
  return w.mlp.has_value() ? ConstTensorView(w.post_attention_norm) : ConstTensorView();
}

/// The most inner elements of a product.
std::int64_t widest(const ModelConfig& c) {
  return std::max<std::int64_t>({c.hidden_size, c.intermediate_size,
                                 c.num_attention_heads * std::int64_t{c.head_dim},
                                 c.linear_num_value_heads * std::int64_t{c.linear_value_head_dim}});
}

}  // namespace

HybridModel::HybridModel(Context& context, ModelConfig config,
                         std::unique_ptr<ModelWeights> weights, DType dtype,
                         Communicator* communicator)
    : context_(context), config_(std::move(config)), weights_(std::move(weights)),
      communicator_(communicator), dtype_(product_dtype(config_, dtype)),
      attention_(config_.layers.size()), gdn_(config_.layers.size()), arena_(context),
      inputs_(context), wanted_(context), limits_(context), draws_(context), chosen_(context) {
  std::int32_t kv_index = 0;
  std::int32_t gdn_index = 0;
  for (std::int32_t i = 0; i < config_.num_layers(); ++i) {
    const auto layer = static_cast<std::size_t>(i);
    if (config_.layers[layer] == LayerKind::kFullAttention) {
      attention_[layer] = attention_layer(config_, i, kv_index++);
    } else {
      gdn_[layer] = gdn_layer(config_, *weights_->layers[layer].gdn, i, gdn_index++);
    }
  }
}

DType HybridModel::product_dtype(const ModelConfig& config, DType dtype) {
  return config.moe.num_experts > 0 ? DType::kF32 : dtype;
}

PagedKvShape HybridModel::kv_shape(std::int32_t page_size, DType kv_dtype) const {
  PagedKvShape shape;
  shape.num_layers = config_.count(LayerKind::kFullAttention);
  shape.page_size = page_size;
  shape.num_kv_heads = config_.num_key_value_heads;
  shape.head_dim = config_.head_dim;
  shape.v_head_dim = config_.head_dim;
  shape.dtype = kv_dtype;
  return shape;
}

GdnStateShape HybridModel::state_shape(DType state_dtype) const {
  GdnStateShape shape;
  shape.num_layers = config_.count(LayerKind::kLinearAttention);
  shape.num_v_heads = config_.linear_num_value_heads;
  shape.head_v_dim = config_.linear_value_head_dim;
  shape.head_k_dim = config_.linear_key_head_dim;
  shape.conv_channels = static_cast<std::int32_t>(GdnBuffers::channels(config_));
  shape.conv_width = config_.linear_conv_kernel_dim;
  shape.state_dtype = state_dtype;
  // Fused kernels of a GPU take windows of the type of what enters them.
  shape.conv_dtype = weights_->on_device() ? dtype_ : DType::kF32;
  return shape;
}

std::set<std::int32_t> HybridModel::full_attention_layers() const {
  std::set<std::int32_t> ids;
  for (std::int32_t i = 0; i < config_.num_layers(); ++i) {
    if (config_.layers[static_cast<std::size_t>(i)] == LayerKind::kFullAttention) ids.insert(i);
  }
  return ids;
}

std::vector<RadixAttention> HybridModel::attention_layers() const {
  std::vector<RadixAttention> layers;
  for (const std::int32_t id : full_attention_layers()) {
    layers.push_back(attention_[static_cast<std::size_t>(id)]);
  }
  return layers;
}

std::vector<RadixLinearAttention> HybridModel::gdn_layers() const {
  std::vector<RadixLinearAttention> layers;
  for (std::size_t i = 0; i < gdn_.size(); ++i) {
    if (config_.layers[i] == LayerKind::kLinearAttention) layers.push_back(gdn_[i]);
  }
  return layers;
}

std::size_t HybridModel::activation_bytes(std::int64_t tokens) const {
  Arena counter(context_);
  ResidualBuffers residual(counter, config_, dtype_, tokens);
  const std::size_t base = counter.used();
  std::size_t most = base;
  const auto measure = [&] {
    most = std::max(most, counter.used());
    counter.rewind(base);
  };
  const bool joined = weights_->on_device();
  FullAttentionBuffers(counter, config_, dtype_, tokens, joined);
  measure();
  GdnBuffers(counter, config_, dtype_, tokens, joined);
  measure();
  MlpBuffers(counter, dtype_, tokens, config_.intermediate_size);
  measure();
  if (config_.moe.num_experts > 0) MoeBuffers(counter, config_, dtype_, tokens);
  measure();
  // logits(): hidden and normed rows of one block.
  counter.take(DType::kF32, {logits_block(), config_.hidden_size});
  counter.take(dtype_, {logits_block(), config_.hidden_size});
  // Where the host of another rank has them, they lie here too.
  if (weights_->on_device() || communicator_ != nullptr) {
    counter.take(DType::kF32, {logits_block(), config_.vocab_size});
  }
  if (weights_->on_device()) {
    counter.take(DType::kI8, {static_cast<std::int64_t>(greedy_scratch_bytes(logits_block()))});
  }
  measure();
  return most;
}

/// out = x w^T, or out += where it is to accumulate.
Status HybridModel::multiply(const ConstTensorView& x, const WeightMatrix& w, const TensorView& out,
                             bool accumulate) {
  if (w.dtype == DType::kI8) return linear_int8(context_, {x, w, w.scale, out, accumulate, {}});
  return linear(context_, {x, w, out, accumulate, {}, {}});
}

Status HybridModel::sum_over_ranks(const TensorView& hidden) {
  return communicator_ == nullptr ? Status() : communicator_->all_reduce(context_, hidden);
}

Status HybridModel::add_product(const ConstTensorView& x, const WeightMatrix& w,
                                const ResidualBuffers& residual, const ConstTensorView& next_norm) {
  hands_on_ = false;
  if (weights_->on_device() && communicator_ == nullptr && !next_norm.empty()) {
    LinearArgs args{x, w, residual.hidden, true};
    args.next_norm = next_norm;
    args.next_x = residual.normed;
    args.next_squares = residual.squares;
    hands_on_ = linear_takes(context_, args);
    if (hands_on_) return linear(context_, args);
  }
  HYBRIDATTN_TRY(multiply(x, w, residual.hidden, keeps_hidden()));
  return sum_over_ranks(residual.hidden);
}

LinearArgs HybridModel::behind_norm(const ResidualBuffers& residual,
                                    const ConstTensorView& norm) const {
  LinearArgs args;
  args.norm_epsilon = config_.rms_norm_eps;
  if (hands_on_) {
    args.x = residual.normed;
    args.x_squares = residual.squares;
  } else {
    args.x = residual.hidden;
    args.norm_weight = norm;
  }
  return args;
}

Status HybridModel::multiply_normed(const ResidualBuffers& residual, const ConstTensorView& norm,
                                    const WeightMatrix& w, const TensorView& out) {
  LinearArgs args = behind_norm(residual, norm);
  args.weight = w;
  args.out = out;
  return linear(context_, args);
}

/// out = silu(x gate^T) * x up^T.
Status HybridModel::multiply_gated(const ConstTensorView& x, const MlpWeights& w,
                                   const TensorView& out) {
  if (weights_->on_device()) return linear(context_, {x, w.up, out, false, {}, w.gate});
  HYBRIDATTN_TRY(multiply(x, w.gate, out));
  if (w.up.dtype == DType::kI8)
    return linear_int8(context_, {x, w.up, w.up.scale, out, false, out});
  return linear(context_, {x, w.up, out, false, out, {}});
}

Status HybridModel::normalize(const ConstTensorView& x, const ConstTensorView& norm,
                              const TensorView& out) {
  return rms_norm(context_, {x, norm, out, config_.rms_norm_eps, true});
}

Status HybridModel::reserve_products(std::int64_t rows) {
  const std::int64_t inner = widest(config_);
  std::size_t shared = linear_shared_workspace_bytes(context_, dtype_, rows, inner);
  if (weights_->format == WeightFormat::kInt8) {
    shared = std::max(shared, linear_int8_shared_workspace_bytes(rows, inner));
  }
  std::size_t each = std::max(linear_workspace_bytes(context_), linear_int8_workspace_bytes());
  if (weights_->on_device()) {
    // A GPU has both halves of a gated product there, and x behind its norm.
    const std::int64_t width =
        std::max<std::int64_t>(config_.intermediate_size, config_.moe.shared_expert_width);
    const auto normed = static_cast<std::size_t>(rows * (config_.hidden_size + 64));
    each += (static_cast<std::size_t>(rows * 2 * (width + 8)) + normed) * dtype_size(dtype_);
    if (context_.device() == DeviceType::kCpu) shared += normed * dtype_size(dtype_);
  }
  return context_.reserve_workspace(shared, each);
}

Status HybridModel::reserve(std::int64_t tokens) {
  HYBRIDATTN_TRY(reserve_products(std::max(tokens, logits_block())));
  const std::size_t before = arena_.capacity();
  HYBRIDATTN_TRY(arena_.reserve(activation_bytes(tokens)));
  const bool moved = arena_.capacity() != before || tokens > inputs_.capacity();
  HYBRIDATTN_TRY(inputs_.reserve(tokens));
  const auto block = static_cast<std::size_t>(logits_block());
  HYBRIDATTN_TRY(wanted_.reserve(block));
  HYBRIDATTN_TRY(limits_.reserve(block));
  HYBRIDATTN_TRY(draws_.reserve(block));
  HYBRIDATTN_TRY(chosen_.reserve(block));
  if (!moved) return {};
  tokens_ = 0;
  ++buffers_version_;
  return {};
}

Status HybridModel::connect_ranks() {
  if (communicator_ == nullptr) return {};
  const std::int64_t most = inputs_.capacity();
  std::int64_t tokens = 1;
  for (bool last = false; !last; tokens *= 2) {
    last = tokens >= most;
    arena_.rewind();
    const TensorView x = arena_.take(DType::kF32, {std::min(tokens, most), config_.hidden_size});
    HYBRIDATTN_TRY(zero(context_, x));
    HYBRIDATTN_TRY(communicator_->all_reduce(context_, x));
  }
  for (const std::int64_t rows : {std::int64_t{1}, logits_block()}) {
    if (weights_->lm_head.dim(0) == config_.vocab_size) break;
    arena_.rewind();
    const TensorView logits = arena_.take(DType::kF32, {rows, config_.vocab_size});
    HYBRIDATTN_TRY(communicator_->all_gather_columns(context_, logits));
  }
  return context_.synchronize();
}

Status HybridModel::set_inputs(const ForwardBatch& batch, std::span<const std::int32_t> ids) {
  return inputs_.set(batch, ids, config_.vocab_size, chosen_.device().size());
}

/// The residual stream and the rotary tables from the step's inputs.
Status HybridModel::prepare() {
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  const std::span<const std::int32_t> ids = inputs_.ids(tokens_);
  HYBRIDATTN_TRY(run_or_record(context_, "embed", [this, ids, hidden = residual.hidden] {
    return embed(context_,
                 {weights_->embedding, ids, inputs_.device_ids(), chosen_.device(), hidden});
  }));
  RotaryTableArgs rotary{inputs_.positions(), config_.rope_theta, config_.rotary_dim, residual.cos,
                         residual.sin};
  rotary.device_positions = inputs_.device_positions();
  return rotary_table(context_, rotary);
}

Status HybridModel::run(const Plan& plan, AttentionBackend& backend) {
  if (plan.num_tokens() > inputs_.capacity()) {
    return error(StatusCode::kResourceExhausted, "HybridModel::run: the plan has ",
                 plan.num_tokens(), " tokens, reserved are ", inputs_.capacity());
  }
  tokens_ = plan.num_tokens();
  knows_logits_ = false;
  hands_on_ = false;
  HYBRIDATTN_TRY(prepare());
  for (std::size_t i = 0; i < config_.layers.size(); ++i) {
    const LayerWeights& w = weights_->layers[i];
    const bool last = i + 1 == config_.layers.size();
    if (w.full.has_value()) {
      HYBRIDATTN_TRY(full_attention(w, attention_[i], plan, backend));
    } else {
      HYBRIDATTN_TRY(gated_delta_net(w, gdn_[i], plan, backend));
    }
    if (w.moe.has_value()) {
      HYBRIDATTN_TRY(moe(w));
    } else {
      HYBRIDATTN_TRY(mlp(w, last ? ConstTensorView() : weights_->layers[i + 1].input_norm));
    }
  }
  return {};
}

Result<std::shared_ptr<Plan>> HybridModel::prepare_step(const ForwardBatch& batch,
                                                        AttentionBackend& backend,
                                                        std::span<const std::int32_t> ids) {
  HYBRIDATTN_TRY(reserve(batch.num_tokens()));
  UploadScope uploads(context_);
  HYBRIDATTN_TRY(set_inputs(batch, ids));
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> plan, backend.plan(batch));
  HYBRIDATTN_TRY(uploads.send());
  return plan;
}

Result<std::shared_ptr<Plan>> HybridModel::forward(const ForwardBatch& batch,
                                                   AttentionBackend& backend,
                                                   std::span<const std::int32_t> ids) {
  HYBRIDATTN_ASSIGN(std::shared_ptr<Plan> plan, prepare_step(batch, backend, ids));
  HYBRIDATTN_TRY(run(*plan, backend));
  return plan;
}

Status HybridModel::full_attention(const LayerWeights& w, const RadixAttention& layer,
                                   const Plan& plan, AttentionBackend& backend) {
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  const FullAttentionBuffers x(arena_, config_, dtype_, tokens_, weights_->on_device());
  if (!x.joined.empty()) {
    HYBRIDATTN_TRY(multiply_normed(residual, w.input_norm, w.full->joined, x.joined));
  } else {
    HYBRIDATTN_TRY(normalize(residual.hidden, w.input_norm, residual.normed));
    HYBRIDATTN_TRY(multiply(residual.normed, w.full->q_proj, flat(x.q_gate)));
    HYBRIDATTN_TRY(multiply(residual.normed, w.full->k_proj, flat(x.k)));
    HYBRIDATTN_TRY(multiply(residual.normed, w.full->v_proj, flat(x.v)));
  }
  const std::int64_t d = layer.head_dim;
  AttentionRunArgs args;
  args.q = x.q_gate.at(0, {tokens_, layer.num_heads, d}, {x.q_gate.stride(0), 2 * d, 1});
  args.gate = x.q_gate.at(d, {tokens_, layer.num_heads, d}, {x.q_gate.stride(0), 2 * d, 1});
  args.k = x.k;
  args.v = x.v;
  args.out = x.out;
  args.q_norm = w.full->q_norm;
  args.k_norm = w.full->k_norm;
  args.norm_epsilon = config_.rms_norm_eps;
  args.cos = residual.cos;
  args.sin = residual.sin;
  HYBRIDATTN_TRY(backend.run_attention(plan, layer, args));
  return add_product(flat(x.out), w.full->o_proj, residual, norm_before_mlp(w));
}

Status HybridModel::gated_delta_net(const LayerWeights& w, const RadixLinearAttention& layer,
                                    const Plan& plan, AttentionBackend& backend) {
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  const GdnBuffers x(arena_, config_, dtype_, tokens_, weights_->on_device());
  if (!x.joined.empty()) {
    HYBRIDATTN_TRY(multiply_normed(residual, w.input_norm, w.gdn->joined, x.joined));
  } else {
    HYBRIDATTN_TRY(normalize(residual.hidden, w.input_norm, residual.normed));
    HYBRIDATTN_TRY(multiply(residual.normed, w.gdn->in_qkv, x.mixed_qkv));
    HYBRIDATTN_TRY(multiply(residual.normed, w.gdn->in_z, flat(x.z)));
    HYBRIDATTN_TRY(multiply(residual.normed, w.gdn->in_b, x.b));
    HYBRIDATTN_TRY(multiply(residual.normed, w.gdn->in_a, x.a));
  }
  GdnRunArgs args;
  args.mixed_qkv = x.mixed_qkv;
  args.a = x.a;
  args.b = x.b;
  args.out = x.out;
  args.z = x.z;
  args.norm_weight = w.gdn->norm;
  args.norm_epsilon = config_.rms_norm_eps;
  args.gate = config_.output_gate;
  HYBRIDATTN_TRY(backend.run_gdn(plan, layer, args));
  return add_product(flat(x.out), w.gdn->out_proj, residual, norm_before_mlp(w));
}

Status HybridModel::mlp(const LayerWeights& w, const ConstTensorView& next_norm) {
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  const MlpBuffers x(arena_, dtype_, tokens_, w.mlp->gate.dim(0));
  if (weights_->on_device()) {
    LinearArgs args = behind_norm(residual, w.post_attention_norm);
    args.weight = w.mlp->up;
    args.gate_weight = w.mlp->gate;
    args.out = x.gated;
    HYBRIDATTN_TRY(linear(context_, args));
  } else {
    HYBRIDATTN_TRY(normalize(residual.hidden, w.post_attention_norm, residual.normed));
    HYBRIDATTN_TRY(multiply_gated(residual.normed, *w.mlp, x.gated));
  }
  return add_product(x.gated, w.mlp->down, residual, next_norm);
}

}  // namespace hybridattn::engine
