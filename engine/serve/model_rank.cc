#include "engine/serve/model_rank.h"

#include <algorithm>
#include <limits>

#include "engine/model/weight_uploader.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// Decode steps of up to this many rows have a graph for each number of rows: padding would cost
/// more than it saves where a step is bound by arithmetic.
constexpr std::int32_t kExactRows = 8;

/// Steps with prompts are recorded up to so many tokens: longer ones keep a GPU busy while the host
/// orders their calls one by one.
constexpr std::int64_t kMostMixedTokens = 1024;

std::vector<GraphShape> decode_sizes(std::int32_t max_batch, std::int32_t pages_per_row) {
  std::vector<GraphShape> sizes;
  for (std::int32_t rows = 1; rows <= std::min(max_batch, kExactRows); ++rows) {
    sizes.push_back(decode_buckets(rows, pages_per_row).back());
  }
  for (const GraphShape& size : decode_buckets(max_batch, pages_per_row)) {
    if (size.decode_rows > kExactRows) sizes.push_back(size);
  }
  return sizes;
}

/// Any rows, up to `most` tokens. A step fills its size by half or more, from 128 tokens on by two
/// thirds.
std::vector<GraphShape> mixed_sizes(std::int32_t max_batch, std::int32_t pages_per_row,
                                    std::int64_t most) {
  constexpr std::int64_t kFirst = 16, kDoubled = 128, kStep = 64;
  std::vector<GraphShape> sizes;
  const std::int64_t pages = std::min<std::int64_t>(std::int64_t{max_batch} * pages_per_row,
                                                    std::numeric_limits<std::int32_t>::max());
  for (std::int64_t tokens = kFirst;; tokens += tokens < kDoubled ? tokens : kStep) {
    GraphShape size;
    size.tokens = static_cast<std::int32_t>(std::min(tokens, most));
    size.decode_rows = size.prefill_rows = std::min(max_batch, size.tokens);
    size.pages = static_cast<std::int32_t>(pages);
    sizes.push_back(size);
    if (tokens >= most) return sizes;
  }
}

}  // namespace

Result<std::unique_ptr<ModelRank>> ModelRank::create(const EngineOptions& options,
                                                     const ModelShard& shard) {
  std::unique_ptr<ModelRank> rank(new ModelRank(options, shard));
  HYBRIDATTN_ASSIGN(rank->context_, Context::create(rank->context_options_));
  return rank;
}

Status ModelRank::load(const std::filesystem::path& directory, const ModelConfig& config,
                       Communicator* communicator, const LoadProgress& progress) {
  HYBRIDATTN_ASSIGN(std::unique_ptr<ModelWeights> weights,
                    ModelWeights::load(directory, config, progress, options_.weights,
                                       &context_->executor(), shard_));
  HYBRIDATTN_ASSIGN(ModelConfig own, shard_config(config, shard_.size));
  if (context_->device() == DeviceType::kCuda || options_.weights == WeightFormat::kJoined) {
    const DType dtype = HybridModel::product_dtype(own, *options_.dtype);
    HYBRIDATTN_TRY(upload_weights(*context_, dtype, *weights, progress));
  }
  model_ = std::make_unique<HybridModel>(*context_, std::move(own), std::move(weights),
                                         *options_.dtype, communicator);
  return {};
}

Status ModelRank::allocate(const RankSizes& sizes) {
  sizes_ = sizes;
  const PagedKvShape kv = model_->kv_shape(options_.page_size, *options_.kv_dtype);
  const GdnStateShape state = model_->state_shape(options_.state_dtype);
  HYBRIDATTN_ASSIGN(kv_, PagedKvPool::create(*context_, kv, sizes.pages));
  HYBRIDATTN_ASSIGN(states_, GdnStatePool::create(*context_, state, options_.max_batch));
  if (sizes.kept_slots > 0) {
    HYBRIDATTN_ASSIGN(kept_, GdnStatePool::create(*context_, state, sizes.kept_slots));
  }
  return make_backends();
}

Status ModelRank::make_backends() {
  HYBRIDATTN_ASSIGN(std::unique_ptr<PagedAttnBackend> paged,
                    PagedAttnBackend::create(*context_, kv_->view()));
  HYBRIDATTN_TRY(paged->set_layers(model_->attention_layers()));
  HYBRIDATTN_ASSIGN(
      std::unique_ptr<GDNAttnBackend> gdn,
      GDNAttnBackend::create(*context_, states_->view(), kept_ ? kept_->view() : GdnStateView()));
  HYBRIDATTN_TRY(gdn->set_layers(model_->gdn_layers()));
  HYBRIDATTN_ASSIGN(backend_, HybridAttnBackend::create(std::move(paged), std::move(gdn),
                                                        model_->full_attention_layers()));
  HYBRIDATTN_TRY(model_->reserve(sizes_.step_tokens));
  return backend_->reserve(static_cast<std::int32_t>(sizes_.step_tokens));
}

Status ModelRank::record_graphs() {
  if (!lacks_graphs()) return {};
  decode_graphs_.reset();
  mixed_graphs_.reset();
  const auto record = [this](std::vector<GraphShape> sizes) {
    return GraphRunner::create(*context_, *backend_, std::move(sizes), [this](const Plan& plan) {
      return model_->run_to_tokens(plan, *backend_);
    });
  };
  const std::int32_t pages = sizes_.pages_per_row;
  // The largest first: what memory they make the context take serves the others. On the CPU
  // nothing is gained by recording steps that padding makes longer.
  if (model_->weights().on_device()) {
    const std::int64_t most = std::min(sizes_.step_tokens, kMostMixedTokens);
    HYBRIDATTN_ASSIGN(mixed_graphs_, record(mixed_sizes(options_.max_batch, pages, most)));
  }
  HYBRIDATTN_ASSIGN(decode_graphs_, record(decode_sizes(options_.max_batch, pages)));
  graphs_version_ = model_->buffers_version();
  return {};
}

/// What replays the step, or nullptr. Rows of drafts differ in length from step to step: padded to
/// one length they would compute tokens that nobody wants.
GraphRunner* ModelRank::graphs_for(const ForwardBatch& batch) const {
  for (GraphRunner* graphs : {decode_graphs_.get(), mixed_graphs_.get()}) {
    if (graphs != nullptr && graphs->can_run(batch)) return graphs;
  }
  return nullptr;
}

Status ModelRank::prepare(const ForwardBatch& batch, std::span<const std::int32_t> ids) {
  HYBRIDATTN_ASSIGN(next_plan_, model_->prepare_step(batch, *backend_, ids));
  return {};
}

Status ModelRank::run() {
  HYBRIDATTN_TRY(model_->run(*next_plan_, *backend_));
  plan_ = std::move(next_plan_);
  last_plan_ = plan_.get();
  return {};
}

Status ModelRank::replay(const ForwardBatch& batch, std::span<const std::int32_t> ids,
                         std::span<const std::int32_t> limits) {
  GraphRunner* const graphs = graphs_for(batch);
  UploadScope uploads(*context_);  // which the replay ends
  HYBRIDATTN_TRY(model_->set_inputs(batch, ids));
  if (graphs == decode_graphs_.get() && model_->weights().on_device()) {
    const auto most = static_cast<std::size_t>(model_->logits_block());
    HYBRIDATTN_TRY(model_->set_limits(limits.first(std::min(limits.size(), most))));
  }
  HYBRIDATTN_TRY(graphs->run(batch).status());
  last_plan_ = graphs->last_plan();
  model_->set_replayed(*last_plan_);
  return {};
}

/// What steps will take beside the caches.
std::int64_t ModelRank::step_bytes(std::int64_t tokens) const {
  const std::int64_t logits = model_->logits_block() * std::int64_t{model_->config().vocab_size} *
                              static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::int64_t>(model_->activation_bytes(tokens)) +
         (model_->weights().on_device() ? 0 : logits);
}

void ModelRank::add_memory(std::int64_t step_tokens, MemoryReport& report) const {
  const ModelWeights& weights = model_->weights();
  const std::int64_t kv = kv_ ? kv_->bytes() : 0;
  const std::int64_t states = (states_ ? states_->bytes() : 0) + (kept_ ? kept_->bytes() : 0);
  report.weights += weights.mapped_bytes + weights.copied_bytes;
  report.kv += kv;
  report.states += states;
  report.workspace += kv_ == nullptr
                          ? step_bytes(step_tokens)
                          : static_cast<std::int64_t>(context_->allocated_bytes()) - kv - states -
                                (weights.on_device() ? weights.copied_bytes : 0);
}

Status ModelRank::check() const {
  if (kv_) HYBRIDATTN_TRY(kv_->check());
  return states_ ? states_->check() : Status();
}

}  // namespace hybridattn::engine
