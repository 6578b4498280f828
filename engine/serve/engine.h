// Engine: a loaded model with its caches and a scheduler. Continuous batching with chunked prefill.
#pragma once

#include <chrono>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/parallel/rank_threads.h"
#include "engine/serve/engine_options.h"
#include "engine/serve/model_rank.h"
#include "engine/serve/sampler.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::engine {

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

  /// The first rank's: of several each has a part of every layer.
  const HybridModel& model() const { return lead().model(); }
  Context& context() { return lead().context(); }
  const EngineOptions& options() const { return options_; }
  const EngineStats& stats() const { return stats_; }
  /// Of all ranks together: what their contexts' allocators gave and, for weights that were not
  /// moved to a GPU, what the process holds.
  MemoryReport memory() const;
  /// Ledger of the caches and of the table. Errors: internal.
  Status check() const;
  std::int32_t free_pages() const { return table_ ? lead().pages().num_free() : 0; }
  std::int32_t free_slots() const { return table_ ? lead().slots().num_free() : 0; }
  /// The allocators of the caches, nullptr before allocate_caches: for tests that make them fail.
  /// Pages and slots have the same ids on all ranks.
  HandleAllocator* pages() { return table_ ? &lead().pages() : nullptr; }
  HandleAllocator* slots() { return table_ ? &lead().slots() : nullptr; }

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

  explicit Engine(EngineOptions options);
  ModelRank& lead() { return *ranks_[0]; }
  const ModelRank& lead() const { return *ranks_[0]; }
  /// body(rank) for each rank, all at once, each on its thread. What they compute together is the
  /// same steps on all. Errors: of the rank that failed first; the others' waits end by it.
  template <class Body>
  Status on_ranks(const Body& body);
  Status open_ranks(const std::filesystem::path& directory, const ModelConfig& config,
                    const LoadProgress& progress);
  /// Of the largest step. A chunk beyond what the caches hold asks for no more memory than they do.
  std::int64_t step_tokens() const;
  std::int32_t kept_slots() const;
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
  Status run_eagerly(const ForwardBatch& batch, std::span<const std::int32_t> ids);
  Status forward(const Step& step);
  Status logits(std::span<const std::int32_t> tokens, float* out);
  Result<std::span<const NextToken>> chosen(const Choices& choices);
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
  Status commit(Step& step);
  void count(const Step& step);
  void drop_finished();
  Status score_chunk(std::span<const std::int32_t> ids, std::int64_t first, std::int64_t count,
                     const Handle& row, ScoreResult& result);

  EngineOptions options_;
  std::unique_ptr<CommunicatorGroup> communicators_;  // nullptr: one rank
  std::vector<std::unique_ptr<ModelRank>> ranks_;     // theirs go before the communicators
  RankThreads threads_;
  bool ranks_failed_ = false;  // since when the communicators are of no use
  std::unique_ptr<RequestTable> table_;
  std::unique_ptr<Step> flight_;  // ordered, its tokens are not read yet; or nullptr
  std::deque<Running> waiting_;   // by id
  std::vector<Running> running_;  // by id: the oldest first
  bool crowded_ = false;          // pages ran out and none have come back since
  std::vector<TokenEvent> pending_;
  std::vector<float> logits_;
  std::int64_t capacity_tokens_ = 0;  // of one request
  std::uint64_t next_id_ = 1;
  EngineStats stats_;
  std::chrono::steady_clock::time_point counted_{};  // until when time in step() is in stats_
  double uncounted_seconds_ = 0;                     // of calls before
};

template <class Body>
Status Engine::on_ranks(const Body& body) {
  if (communicators_ == nullptr) return body(lead());
  if (std::exchange(ranks_failed_, true)) HYBRIDATTN_TRY(communicators_->restore());
  const Status done = threads_.run([&](std::int32_t index) {
    ModelRank& rank = *ranks_[static_cast<std::size_t>(index)];
    const ModelRank::Thread thread(rank);
    return body(rank);
  });
  ranks_failed_ = !done.ok();
  return done;
}

}  // namespace hybridattn::engine
