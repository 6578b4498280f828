// Loading, caches and accounting of the engine; its steps are in scheduler.cc.
#include "engine/serve/engine.h"

#include <algorithm>
#include <limits>

#include "engine/model/weight_uploader.h"
#include "engine/ops/cuda/kernels.h"
#include "engine/serve/step_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

Status check_options(const EngineOptions& o) {
  if (o.chunk < 1) return invalid_argument("chunk is ", o.chunk, ", must be at least 1");
  if (o.max_batch < 1)
    return invalid_argument("max-batch is ", o.max_batch, ", must be at least 1");
  if (o.page_size < 1)
    return invalid_argument("page_size is ", o.page_size, ", must be at least 1");
  if (o.draft_tokens < 0 || o.draft_tokens > kMaxTreeTokens) {
    return invalid_argument("draft-tokens is ", o.draft_tokens, ", must be 0 to ", kMaxTreeTokens);
  }
  if (std::int64_t{o.max_batch} * (o.draft_tokens + 2) > std::numeric_limits<std::int32_t>::max()) {
    return invalid_argument("max-batch is ", o.max_batch, " with draft-tokens ", o.draft_tokens,
                            ", must be under 2^31 state slots together");
  }
  if (o.context.chunk_invariant && o.chunk < kGdnChunk) {
    return invalid_argument("chunk is ", o.chunk, ", must be at least ", kGdnChunk,
                            " for chunk-invariant");
  }
  if (o.context.chunk_invariant && o.state_dtype != DType::kF32) {
    return invalid_argument("state-dtype is ", dtype_name(o.state_dtype),
                            ", must be f32 for chunk-invariant");
  }
  if (o.dtype.has_value() && *o.dtype != DType::kF32 && *o.dtype != DType::kBF16) {
    return invalid_argument("dtype is ", dtype_name(*o.dtype), ", must be f32 or bf16");
  }
  return {};
}

DType default_dtype(const ModelConfig& config) {
  return config.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

}  // namespace

std::string_view finish_name(Finish finish) {
  switch (finish) {
    case Finish::kNone: return "none";
    case Finish::kEos: return "eos";
    case Finish::kLength: return "length";
    case Finish::kCancelled: return "cancelled";
  }
  return "unknown";
}

Engine::Engine(EngineOptions options, std::unique_ptr<Context> context,
               std::unique_ptr<HybridModel> model)
    : options_(std::move(options)), context_(std::move(context)), model_(std::move(model)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::load(const std::filesystem::path& directory,
                                             const EngineOptions& options,
                                             const LoadProgress& progress) {
  HYBRIDATTN_TRY(check_options(options));
  HYBRIDATTN_ASSIGN(ModelConfig config, ModelConfig::load(directory));
  const std::int32_t full = config.count(LayerKind::kFullAttention);
  if (full == 0 || full == config.num_layers()) {
    return error(StatusCode::kUnsupported, "config.json: ", full, " of ", config.num_layers(),
                 " layers are full attention, a hybrid model must have both kinds");
  }
  HYBRIDATTN_ASSIGN(std::unique_ptr<Context> context, Context::create(options.context));
  HYBRIDATTN_ASSIGN(
      std::unique_ptr<ModelWeights> weights,
      ModelWeights::load(directory, config, progress, options.weights, &context->executor()));
  EngineOptions resolved = options;
  if (options.context.chunk_invariant) resolved.chunk -= resolved.chunk % kGdnChunk;
  resolved.dtype = options.dtype.value_or(default_dtype(config));
  resolved.kv_dtype = options.kv_dtype.value_or(*resolved.dtype);
  if (context->device() == DeviceType::kCuda || options.weights == WeightFormat::kJoined) {
    const DType dtype = HybridModel::product_dtype(config, *resolved.dtype);
    HYBRIDATTN_TRY(upload_weights(*context, dtype, *weights, progress));
  }
  auto model = std::make_unique<HybridModel>(*context, std::move(config), std::move(weights),
                                             *resolved.dtype);
  return std::unique_ptr<Engine>(
      new Engine(std::move(resolved), std::move(context), std::move(model)));
}

Status Engine::allocate_caches(const CacheOptions& options) {
  const cuda::ThreadDevice device(options_.context);
  if (table_ != nullptr) {
    return error(StatusCode::kFailedPrecondition, "allocate_caches: the caches are there already");
  }
  const std::int64_t context_tokens = model_->config().max_position_embeddings;
  const std::int64_t tokens = options.memory_bytes > 0
                                  ? context_tokens
                                  : std::min(options.max_tokens_per_request, context_tokens);
  if (tokens < 1) {
    return invalid_argument("allocate_caches: max_tokens_per_request is ",
                            options.max_tokens_per_request, ", must be at least 1");
  }
  const PagedKvShape kv = model_->kv_shape(options_.page_size, *options_.kv_dtype);
  const GdnStateShape state = model_->state_shape(options_.state_dtype);
  const std::int64_t per_request = (tokens + kv.page_size - 1) / kv.page_size;
  const std::int64_t wanted = per_request * options_.max_batch;
  const std::int64_t most = std::min<std::int64_t>(wanted, 1 << 30);
  const std::int32_t kept = kept_slots();
  const std::int32_t slots = options_.max_batch + kept;
  const std::int64_t needed = most * kv.page_bytes() + slots * state.slot_bytes();
  const std::int64_t bytes = options.memory_bytes > 0 ? options.memory_bytes : needed;
  HYBRIDATTN_ASSIGN(const CacheBudget budget,
                    fit_cache_budget(kv, state, slots, static_cast<std::int32_t>(most), bytes));
  HYBRIDATTN_ASSIGN(kv_, PagedKvPool::create(*context_, kv, budget.num_pages));
  HYBRIDATTN_ASSIGN(states_, GdnStatePool::create(*context_, state, options_.max_batch));
  if (kept > 0) {
    HYBRIDATTN_ASSIGN(kept_, GdnStatePool::create(*context_, state, kept));
  }
  capacity_tokens_ = std::min<std::int64_t>(per_request, budget.num_pages) * kv.page_size;
  HYBRIDATTN_TRY(make_backends());
  table_ = std::make_unique<RequestTable>(
      kv_->pages(), &states_->slots(), kv.page_size, options_.max_batch,
      static_cast<std::int32_t>(std::min<std::int64_t>(per_request, budget.num_pages)));
  return record_graphs();
}

/// A row of drafts has the last sampled token in front of them.
std::int32_t Engine::kept_slots() const {
  return options_.draft_tokens > 0 ? options_.max_batch * (options_.draft_tokens + 1) : 0;
}

std::int64_t Engine::step_tokens() const {
  const std::int64_t held = capacity_tokens_ * options_.max_batch;
  return std::min<std::int64_t>(options_.chunk, held) +
         std::int64_t{options_.max_batch} * (options_.draft_tokens + 1);
}

Status Engine::make_backends() {
  HYBRIDATTN_ASSIGN(std::unique_ptr<PagedAttnBackend> paged,
                    PagedAttnBackend::create(*context_, kv_->view()));
  HYBRIDATTN_TRY(paged->set_layers(model_->attention_layers()));
  HYBRIDATTN_ASSIGN(
      std::unique_ptr<GDNAttnBackend> gdn,
      GDNAttnBackend::create(*context_, states_->view(), kept_ ? kept_->view() : GdnStateView()));
  HYBRIDATTN_TRY(gdn->set_layers(model_->gdn_layers()));
  HYBRIDATTN_ASSIGN(backend_, HybridAttnBackend::create(std::move(paged), std::move(gdn),
                                                        model_->full_attention_layers()));
  HYBRIDATTN_TRY(model_->reserve(step_tokens()));
  return backend_->reserve(static_cast<std::int32_t>(step_tokens()));
}

Status Engine::check_prompt(const char* verb, std::span<const std::int32_t> ids,
                            std::int64_t total) const {
  if (table_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, verb, ": allocate_caches was not called");
  }
  if (ids.empty())
    return invalid_argument(verb, ": the prompt is empty, must have at least one id");
  const std::int32_t vocab = model_->config().vocab_size;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return error(StatusCode::kOutOfRange, verb, ": id ", ids[i], " at position ", i,
                   ", must be in [0, ", vocab, ")");
    }
  }
  const std::int64_t context_tokens = model_->config().max_position_embeddings;
  const auto length = static_cast<std::int64_t>(ids.size());
  if (length > context_tokens) {
    return error(StatusCode::kOutOfRange, verb, ": the prompt has ", length,
                 " tokens, must be at most the model's context of ", context_tokens);
  }
  if (std::min(total, context_tokens) > capacity_tokens_) {
    return error(StatusCode::kResourceExhausted, verb, ": prompt and output are ", total,
                 " tokens, the caches hold at most ", capacity_tokens_, " of one request");
  }
  return {};
}

/// What steps will take beside the caches.
std::int64_t Engine::step_bytes() const {
  const std::int64_t logits = model_->logits_block() * std::int64_t{model_->config().vocab_size} *
                              static_cast<std::int64_t>(sizeof(float));
  const bool counted = model_->weights().on_device();
  return static_cast<std::int64_t>(model_->activation_bytes(step_tokens())) +
         (counted ? 0 : logits);
}

MemoryReport Engine::memory() const {
  MemoryReport report;
  report.weights = model_->weights().mapped_bytes + model_->weights().copied_bytes;
  report.kv = kv_ ? kv_->bytes() : 0;
  report.states = (states_ ? states_->bytes() : 0) + (kept_ ? kept_->bytes() : 0);
  report.workspace = table_ == nullptr ? step_bytes() : 0;
  if (table_ != nullptr) {
    const bool counted = model_->weights().on_device();
    report.workspace = static_cast<std::int64_t>(context_->allocated_bytes()) - report.kv -
                       report.states - (counted ? model_->weights().copied_bytes : 0);
  }
  return report;
}

Status Engine::check() const {
  if (kv_) HYBRIDATTN_TRY(kv_->check());
  if (states_) HYBRIDATTN_TRY(states_->check());
  return table_ ? table_->check() : Status();
}

}  // namespace hybridattn::engine
