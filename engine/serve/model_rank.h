// ModelRank: what one rank of an engine has: its part of the model, the caches of that, and
// recorded steps.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "engine/model/hybrid_model.h"
#include "engine/model/model_shard.h"
#include "engine/ops/cuda/kernels.h"
#include "engine/serve/engine_options.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::engine {

/// What steps and caches are made for.
struct RankSizes {
  std::int32_t pages = 0;
  std::int32_t kept_slots = 0;  ///< states of drafted tokens
  std::int32_t pages_per_row = 0;
  std::int64_t step_tokens = 0;  ///< of the largest step
};

/// In bytes.
struct MemoryReport {
  std::int64_t weights = 0;  ///< mapped and copied
  std::int64_t kv = 0;
  std::int64_t states = 0;
  /// Activations, plans, graphs, workspace of ops; before allocate_caches what activations and
  /// logits of full steps will take.
  std::int64_t workspace = 0;
};

/// Of several ranks all make the same calls, each on a thread of its own, at the same time: steps
/// wait for one another. Pages and slots of the caches have the same ids on all; whose allocators
/// give them out is the engine's business.
class ModelRank {
 public:
  /// Makes the context. `options` are borrowed. Errors: those of the context.
  static Result<std::unique_ptr<ModelRank>> create(const EngineOptions& options,
                                                   const ModelShard& shard);

  /// Its device is that of the calling thread for a scope.
  class Thread {
   public:
    explicit Thread(const ModelRank& rank) : device_(rank.context_options_) {}

   private:
    cuda::ThreadDevice device_;
  };

  /// Reads its part of the weights. `config` is the whole model's; `communicator` is borrowed, or
  /// nullptr for one rank. Errors: those of the weights.
  Status load(const std::filesystem::path& directory, const ModelConfig& config,
              Communicator* communicator, const LoadProgress& progress);
  /// Makes the caches and room for steps. Errors: resource_exhausted, device_error.
  Status allocate(const RankSizes& sizes);
  /// Connects it with the others, once all have allocated. Errors: of the communicator.
  Status connect() { return model_->connect_ranks(); }
  /// Whether steps are to be recorded and those that were do not hold any more.
  bool lacks_graphs() const {
    return options_.graphs && graphs_version_ != model_->buffers_version();
  }
  /// Records them. Errors: as GraphRunner::create.
  Status record_graphs();

  /// Whether the step was recorded.
  bool can_replay(const ForwardBatch& batch) const { return graphs_for(batch) != nullptr; }
  /// Replays it. `limits`: what each row of a decode step may say, at most. Errors: those of the
  /// model and the backends.
  Status replay(const ForwardBatch& batch, std::span<const std::int32_t> ids,
                std::span<const std::int32_t> limits);
  /// What must be done on all ranks before the first of them calls `run`, since it may allocate: a
  /// device that allocates may wait for one that waits for the other's part of a sum. Errors: the
  /// same.
  Status prepare(const ForwardBatch& batch, std::span<const std::int32_t> ids);
  /// Runs the step that was prepared. Errors: the same.
  Status run();
  /// Ends the last step: see AttentionBackend::commit.
  Status commit(RequestTable& table, std::span<const Handle> rows,
                std::span<const std::int32_t> last_accepted) {
    return backend_->commit(*last_plan_, table, rows, last_accepted);
  }
  Status commit(std::span<const std::int32_t> last_accepted) {
    return backend_->commit(*last_plan_, last_accepted);
  }

  const ModelShard& shard() const { return shard_; }
  int device_index() const { return context_options_.device_index; }
  Context& context() const { return *context_; }
  HybridModel& model() { return *model_; }
  const HybridModel& model() const { return *model_; }
  HandleAllocator& pages() { return kv_->pages(); }
  const HandleAllocator& pages() const { return kv_->pages(); }
  HandleAllocator& slots() { return states_->slots(); }
  const HandleAllocator& slots() const { return states_->slots(); }
  /// What it holds, and needs for steps of so many tokens.
  void add_memory(std::int64_t step_tokens, MemoryReport& report) const;
  /// Ledgers of the caches. Errors: internal.
  Status check() const;

 private:
  std::int64_t step_bytes(std::int64_t tokens) const;
  ModelRank(const EngineOptions& options, const ModelShard& shard)
      : options_(options), shard_(shard), context_options_(rank_context(options, shard.rank)) {}
  Status make_backends();
  GraphRunner* graphs_for(const ForwardBatch& batch) const;

  const EngineOptions& options_;
  ModelShard shard_;
  ContextOptions context_options_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<HybridModel> model_;
  std::unique_ptr<PagedKvPool> kv_;
  std::unique_ptr<GdnStatePool> states_;
  std::unique_ptr<GdnStatePool> kept_;  // of drafted tokens
  std::unique_ptr<AttentionBackend> backend_;
  RankSizes sizes_;
  std::unique_ptr<GraphRunner> decode_graphs_, mixed_graphs_;
  std::uint64_t graphs_version_ = 0;  // of the model's buffers
  std::shared_ptr<Plan> next_plan_;   // of the step that is prepared
  std::shared_ptr<Plan> plan_;        // of the last eager step
  Plan* last_plan_ = nullptr;         // of the last step
};

}  // namespace hybridattn::engine
