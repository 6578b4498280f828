// Engine: a loaded model with its caches and a scheduler. Continuous batching with chunked prefill.
#pragma once

#include <chrono>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "engine/model/hybrid_model.h"
#include "engine/serve/sampler.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::engine {

struct EngineOptions {
  ContextOptions context;
  std::optional<DType> dtype;     ///< f32 or bf16; unset = the checkpoint's, f32 where that is f16
  std::optional<DType> kv_dtype;  ///< f32, bf16, f16 or f8_e4m3; unset = dtype
  DType state_dtype = DType::kF32;  ///< f32 or bf16 at rest
  WeightFormat weights = WeightFormat::kStored;
  /// Prompt tokens of one step, at most. With chunk_invariant in `context` it is cut to a multiple
  /// of kGdnChunk, which it must reach. With batch_invariant a prompt takes whole chunks or waits.
  std::int32_t chunk = 512;
  std::int32_t max_batch = 8;   ///< requests that run at once
  std::int32_t page_size = 16;  ///< tokens of a page
  /// Tokens drafted for each request and step, at most, from what was said before; those that the
  /// sampler would have taken are kept. 0 = off. Prompts may be cut at other places then: with
  /// batch_invariant or chunk_invariant the output is the same to the bit, else within the bounds.
  std::int32_t draft_tokens = 0;
  /// Record decode steps once and replay them, on a GPU steps of short prompts too. With
  /// batch_invariant the output is the same to the bit, else within the bounds.
  bool graphs = true;
  /// On a GPU: a step is ordered before the tokens of the last one are read, where the device chose
  /// those and nothing is drafted: they come with the next call of step(). The output is the same.
  bool overlap = true;
};

/// Sizes of the caches. Tokens are those of one request, prompt and output together.
struct CacheOptions {
  std::int64_t max_tokens_per_request = 0;
  std::int64_t memory_bytes = 0;  ///< budget of both caches; 0 = what max_batch requests need
};

struct Request {
  std::vector<std::int32_t> prompt;
  std::int32_t max_new_tokens = 16;
  bool ignore_eos = false;
  SamplingParams sampling;
  /// Ids at or above are never sampled, for a padded vocabulary. 0 = all of the model's.
  std::int32_t vocab_limit = 0;
};

enum class Finish : std::uint8_t { kNone, kEos, kLength, kCancelled };
std::string_view finish_name(Finish finish);

struct TokenEvent {
  std::uint64_t request = 0;
  std::int32_t token = kPadIndex;  ///< -1 where the request ended without a new token
  Finish finish = Finish::kNone;   ///< kNone while it goes on
};

struct EngineStats {
  std::int64_t prefill_tokens = 0;  ///< of steps with prompt tokens
  double prefill_seconds = 0;
  std::int64_t decode_tokens = 0;  ///< of steps without, drafted ones that were not kept left out
  double decode_seconds = 0;
  std::int64_t drafted_tokens = 0;
  std::int64_t accepted_tokens = 0;  ///< of the drafted ones
  std::int64_t preemptions = 0;
  std::int64_t replayed_steps = 0;
};

struct ScoreResult {
  std::vector<std::int32_t> argmax;  ///< at each position
  std::vector<double> logprobs;      ///< of each next id given; one fewer
  std::vector<float> last_logits;    ///< at the last position
  double mean_nll = 0;               ///< 0 for a single id
};

/// What a process that runs the engine holds, in bytes.
struct MemoryReport {
  std::int64_t weights = 0;  ///< mapped and copied
  std::int64_t kv = 0;
  std::int64_t states = 0;
  /// Activations, plans, graphs, workspace of ops; before allocate_caches what activations and
  /// logits of full steps will take.
  std::int64_t workspace = 0;
};

/// One thread at a time.
class Engine {
 public:
  ~Engine();
  /// Loads a checkpoint folder. Errors: those of the configuration, the weights and the context.
  static Result<std::unique_ptr<Engine>> load(const std::filesystem::path& directory,
                                              const EngineOptions& options,
                                              const LoadProgress& progress = {});

  /// Makes the caches. Call it once, before the first submit or score. Errors: invalid_argument;
  /// resource_exhausted with the bytes needed.
  Status allocate_caches(const CacheOptions& options);

  /// Queues a request. Errors: invalid_argument (empty prompt, sampling), out_of_range (an id, a
  /// prompt beyond the context), resource_exhausted (more tokens than the caches can ever hold).
  Result<std::uint64_t> submit(Request request);
  /// Ends a request at once and frees what it holds; its last event comes with the next step.
  /// Errors: not_found.
  Status cancel(std::uint64_t request);
  /// One step: admits what fits, runs a chunk of prompts beside all decoding rows, samples. A
  /// request takes pages as it grows; when there are none left, the youngest gives up its own,
  /// waits and is computed again later, so that the oldest always goes on. On an error all running
  /// requests are dropped, since their states are not known any more.
  Result<std::vector<TokenEvent>> step();
  /// Nothing waits, runs or has an event to deliver.
  bool idle() const { return waiting_.empty() && running_.empty() && pending_.empty(); }

  /// Runs over ids in chunks of `chunk`. `progress` gets the share done. Errors: as submit;
  /// failed_precondition while requests run.
  Result<ScoreResult> score(std::span<const std::int32_t> ids, std::int32_t chunk,
                            const LoadProgress& progress = {});

  const HybridModel& model() const { return *model_; }
  Context& context() { return *context_; }
  const EngineOptions& options() const { return options_; }
  const EngineStats& stats() const { return stats_; }
  /// Of the context's allocator and, for weights that were not moved to a GPU, of the process.
  MemoryReport memory() const;
  /// Ledger of the caches and of the table. Errors: internal.
  Status check() const;
  std::int32_t free_pages() const { return kv_ ? kv_->pages().num_free() : 0; }
  std::int32_t free_slots() const { return states_ ? states_->slots().num_free() : 0; }
  /// The allocators of the caches, nullptr before allocate_caches: for tests that make them fail.
  HandleAllocator* pages() { return kv_ ? &kv_->pages() : nullptr; }
  HandleAllocator* slots() { return states_ ? &states_->slots() : nullptr; }

 private:
  struct Running {
    std::uint64_t id = 0;
    Request request;
    Handle row{};                       // index -1 = none
    std::vector<std::int32_t> history;  // prompt and output
    std::int64_t prefill_end = 0;       // tokens of it that are computed as a prompt
    std::int64_t limit = 0;             // tokens in all
  };
  struct Step;
  struct StepRow;

  Engine(EngineOptions options, std::unique_ptr<Context> context,
         std::unique_ptr<HybridModel> model);
  /// Of the largest step. A chunk beyond what the caches hold asks for no more memory than they do.
  std::int64_t step_tokens() const;
  std::int64_t step_bytes() const;
  std::int32_t kept_slots() const;
  Status make_backends();
  Status check_prompt(const char* verb, std::span<const std::int32_t> ids,
                      std::int64_t total) const;
  // What runs next: scheduler.cc.
  void admit();
  void wait_again(std::size_t index);
  bool make_room(std::size_t index, std::int64_t tokens, bool& must_wait);
  std::int32_t place_of_next(const Running& r) const;
  std::optional<StepRow> choose(std::size_t index, std::int64_t& budget, bool& must_wait);
  void add_drafts(const Running& r, StepRow& row, std::vector<std::int32_t>& ids);
  Result<std::optional<Step>> compose();
  void close(Running& running);
  // Running it: step.cc.
  /// A token whose logits are wanted, by its index in the stream, and its row in the step.
  struct Wanted {
    std::int32_t token;
    std::size_t row;
  };
  Status record_graphs();
  GraphRunner* graphs_for(const Step& step) const;
  Status set_limits(const Step& step);
  Result<Plan*> forward(const Step& step);
  Status run_next(std::vector<TokenEvent>& events);
  Status run(Step& step, std::vector<TokenEvent>& events);
  bool may_fly(const Step& step, std::span<const Wanted> wanted) const;
  Status launch(Step& step, std::span<const Wanted> wanted, std::vector<TokenEvent>& events);
  Status collect(std::vector<TokenEvent>& events);
  Running* find_running(std::uint64_t request);
  static std::vector<Wanted> wanted_of(const Step& step);
  static bool logits_suffice(const Step& step, std::span<const Wanted> wanted);
  Result<Choices> choose_on_device(const Step& step, std::span<const Wanted> wanted);
  Status sample(Step& step, std::span<const Wanted> wanted, std::vector<TokenEvent>& events);
  Status sample_on_host(Step& step, std::span<const Wanted> wanted,
                        std::vector<TokenEvent>& events);
  Status sample_on_device(Step& step, std::span<const Wanted> wanted,
                          std::vector<TokenEvent>& events);
  void take_token(const Step& step, StepRow& row, Running& running, std::int32_t token,
                  std::vector<TokenEvent>& events);
  void accept(Running& running, std::int32_t token, std::vector<TokenEvent>& events);
  Status commit(Step& step, Plan& plan);
  void count(const Step& step);
  void drop_finished();
  Status score_chunk(std::span<const std::int32_t> ids, std::int64_t first, std::int64_t count,
                     const Handle& row, ScoreResult& result);

  EngineOptions options_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<HybridModel> model_;
  std::unique_ptr<PagedKvPool> kv_;
  std::unique_ptr<GdnStatePool> states_;
  std::unique_ptr<GdnStatePool> kept_;  // of drafted tokens
  std::unique_ptr<AttentionBackend> backend_;
  std::unique_ptr<RequestTable> table_;
  std::unique_ptr<GraphRunner> decode_graphs_, mixed_graphs_;
  std::uint64_t graphs_version_ = 0;  // of the model's buffers
  std::shared_ptr<Plan> plan_;        // of the last eager step
  std::unique_ptr<Step> flight_;      // ordered, its tokens are not read yet; or nullptr
  std::deque<Running> waiting_;       // by id
  std::vector<Running> running_;      // by id: the oldest first
  bool crowded_ = false;              // pages ran out and none have come back since
  std::vector<TokenEvent> pending_;
  std::vector<float> logits_;
  std::int64_t capacity_tokens_ = 0;  // of one request
  std::uint64_t next_id_ = 1;
  EngineStats stats_;
  std::chrono::steady_clock::time_point counted_{};  // until when time in step() is in stats_
  double uncounted_seconds_ = 0;                     // of calls before
};

}  // namespace hybridattn::engine
