// Loading, caches and accounting of the engine; its steps are in scheduler.cc.
#include "engine/serve/engine.h"

#include <algorithm>
#include <limits>

#include "engine/ops/cuda/kernels.h"
#include "engine/parallel/nccl_communicator.h"
#include "engine/parallel/thread_communicator.h"
#include "engine/serve/step_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

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

Engine::Engine(EngineOptions options)
    : options_(std::move(options)), threads_(options_.ranks, [this] { communicators_->abort(); }) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::load(const std::filesystem::path& directory,
                                             const EngineOptions& options,
                                             const LoadProgress& progress) {
  HYBRIDATTN_TRY(check_options(options));
  HYBRIDATTN_ASSIGN(const ModelConfig config, ModelConfig::load(directory));
  const std::int32_t full = config.count(LayerKind::kFullAttention);
  if (full == 0 || full == config.num_layers()) {
    return error(StatusCode::kUnsupported, "config.json: ", full, " of ", config.num_layers(),
                 " layers are full attention, a hybrid model must have both kinds");
  }
  HYBRIDATTN_TRY(shard_config(config, options.ranks).status());
  EngineOptions resolved = options;
  if (options.context.chunk_invariant) resolved.chunk -= resolved.chunk % kGdnChunk;
  resolved.dtype = options.dtype.value_or(default_dtype(config));
  resolved.kv_dtype = options.kv_dtype.value_or(*resolved.dtype);
  resolved.context.device_index = rank_context(options, 0).device_index;
  std::unique_ptr<Engine> engine(new Engine(std::move(resolved)));
  HYBRIDATTN_TRY(engine->open_ranks(directory, config, progress));
  return engine;
}

Status Engine::open_ranks(const std::filesystem::path& directory, const ModelConfig& config,
                          const LoadProgress& progress) {
  std::vector<int> devices;
  for (std::int32_t rank = 0; rank < options_.ranks; ++rank) {
    HYBRIDATTN_ASSIGN(std::unique_ptr<ModelRank> made,
                      ModelRank::create(options_, {rank, options_.ranks}));
    devices.push_back(made->device_index());
    ranks_.push_back(std::move(made));
  }
  if (options_.ranks > 1 && options_.context.device == DeviceType::kCpu) {
    communicators_ = make_thread_communicators(options_.ranks);
  } else if (options_.ranks > 1) {
    HYBRIDATTN_ASSIGN(const NcclLibrary* const nccl, NcclLibrary::get());
    HYBRIDATTN_ASSIGN(communicators_, make_nccl_communicators(*nccl, devices));
  }
  return on_ranks([&](ModelRank& rank) {
    // The ranks' parts are equally large: one of them speaks for all.
    const LoadProgress& told = &rank == &lead() ? progress : LoadProgress();
    Communicator* const communicator =
        communicators_ == nullptr ? nullptr : &communicators_->of(rank.shard().rank);
    return rank.load(directory, config, communicator, told);
  });
}

Status Engine::allocate_caches(const CacheOptions& options) {
  const cuda::ThreadDevice device(options_.context);
  if (table_ != nullptr) {
    return error(StatusCode::kFailedPrecondition, "allocate_caches: the caches are there already");
  }
  const std::int64_t context_tokens = model().config().max_position_embeddings;
  const std::int64_t tokens = options.memory_bytes > 0
                                  ? context_tokens
                                  : std::min(options.max_tokens_per_request, context_tokens);
  if (tokens < 1) {
    return invalid_argument("allocate_caches: max_tokens_per_request is ",
                            options.max_tokens_per_request, ", must be at least 1");
  }
  const PagedKvShape kv = model().kv_shape(options_.page_size, *options_.kv_dtype);
  const GdnStateShape state = model().state_shape(options_.state_dtype);
  const std::int64_t per_request = (tokens + kv.page_size - 1) / kv.page_size;
  const std::int64_t wanted = per_request * options_.max_batch;
  const std::int64_t most = std::min<std::int64_t>(wanted, 1 << 30);
  const std::int32_t kept = kept_slots();
  const std::int32_t slots = options_.max_batch + kept;
  const std::int64_t needed = most * kv.page_bytes() + slots * state.slot_bytes();
  const std::int64_t bytes = options.memory_bytes > 0 ? options.memory_bytes : needed;
  HYBRIDATTN_ASSIGN(const CacheBudget budget,
                    fit_cache_budget(kv, state, slots, static_cast<std::int32_t>(most), bytes));
  const std::int64_t row_pages = std::min<std::int64_t>(per_request, budget.num_pages);
  capacity_tokens_ = row_pages * kv.page_size;
  RankSizes sizes;
  sizes.pages = budget.num_pages;
  sizes.kept_slots = kept;
  sizes.pages_per_row = static_cast<std::int32_t>(row_pages);
  sizes.step_tokens = step_tokens();
  HYBRIDATTN_TRY(on_ranks([&](ModelRank& rank) { return rank.allocate(sizes); }));
  HYBRIDATTN_TRY(on_ranks([](ModelRank& rank) { return rank.connect(); }));
  table_ = std::make_unique<RequestTable>(lead().pages(), &lead().slots(), kv.page_size,
                                          options_.max_batch, sizes.pages_per_row);
  return on_ranks([](ModelRank& rank) { return rank.record_graphs(); });
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

Status Engine::check_prompt(const char* verb, std::span<const std::int32_t> ids,
                            std::int64_t total) const {
  if (table_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, verb, ": allocate_caches was not called");
  }
  if (ids.empty())
    return invalid_argument(verb, ": the prompt is empty, must have at least one id");
  const std::int32_t vocab = model().config().vocab_size;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return error(StatusCode::kOutOfRange, verb, ": id ", ids[i], " at position ", i,
                   ", must be in [0, ", vocab, ")");
    }
  }
  const std::int64_t context_tokens = model().config().max_position_embeddings;
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

MemoryReport Engine::memory() const {
  MemoryReport report;
  for (const auto& rank : ranks_) rank->add_memory(step_tokens(), report);
  return report;
}

Status Engine::check() const {
  for (const auto& rank : ranks_) HYBRIDATTN_TRY(rank->check());
  return table_ ? table_->check() : Status();
}

}  // namespace hybridattn::engine
