// Running one step of the engine: forward, next tokens, commit. A step whose tokens the device
// chooses stays in flight: the next one is ordered behind it before they are read.
#include <algorithm>
#include <limits>

#include "engine/ops/cuda/kernels.h"
#include "engine/serve/step_rows.h"
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

Status Engine::record_graphs() {
  if (!options_.graphs || graphs_version_ == model_->buffers_version()) return {};
  decode_graphs_.reset();
  mixed_graphs_.reset();
  const auto record = [this](std::vector<GraphShape> sizes) {
    return GraphRunner::create(*context_, *backend_, std::move(sizes), [this](const Plan& plan) {
      return model_->run_to_tokens(plan, *backend_);
    });
  };
  const std::int32_t pages = table_->max_pages_per_row();
  // The largest first: what memory they make the context take serves the others. On the CPU
  // nothing is gained by recording steps that padding makes longer.
  if (model_->weights().on_device()) {
    const std::int64_t most = std::min(step_tokens(), kMostMixedTokens);
    HYBRIDATTN_ASSIGN(mixed_graphs_, record(mixed_sizes(options_.max_batch, pages, most)));
  }
  HYBRIDATTN_ASSIGN(decode_graphs_, record(decode_sizes(options_.max_batch, pages)));
  graphs_version_ = model_->buffers_version();
  return {};
}

/// What replays the step, or nullptr. Rows of drafts differ in length from step to step: padded to
/// one length they would compute tokens that nobody wants.
GraphRunner* Engine::graphs_for(const Step& step) const {
  for (GraphRunner* graphs : {decode_graphs_.get(), mixed_graphs_.get()}) {
    if (graphs != nullptr && graphs->can_run(step.batch)) return graphs;
  }
  return nullptr;
}

/// What each row of a decode step may say.
Status Engine::set_limits(const Step& step) {
  std::vector<std::int32_t> limits;
  for (const StepRow& row : step.rows) limits.push_back(row.vocab_limit);
  const auto most = static_cast<std::size_t>(model_->logits_block());
  return model_->set_limits(std::span(limits).first(std::min(limits.size(), most)));
}

/// Replays the step where it was recorded, and else runs it.
Result<Plan*> Engine::forward(const Step& step) {
  HYBRIDATTN_TRY(record_graphs());
  GraphRunner* const graphs = graphs_for(step);
  if (graphs == nullptr) {
    HYBRIDATTN_ASSIGN(plan_, model_->forward(step.batch, *backend_, step.ids));
    return plan_.get();
  }
  UploadScope uploads(*context_);  // which the replay ends
  HYBRIDATTN_TRY(model_->set_inputs(step.batch, step.ids));
  const bool has_limits = graphs == decode_graphs_.get() && model_->weights().on_device();
  if (has_limits) HYBRIDATTN_TRY(set_limits(step));
  HYBRIDATTN_TRY(graphs->run(step.batch).status());
  model_->set_replayed(*graphs->last_plan());
  ++stats_.replayed_steps;
  return graphs->last_plan();
}

/// What was computed is counted; of a row of drafts, what was taken. Requests that have ended are
/// dropped.
Status Engine::commit(Step& step, Plan& plan) {
  std::vector<Handle> handles;
  std::vector<std::int32_t> last;
  for (const StepRow& row : step.rows) {
    handles.push_back(row.row);
    last.push_back(row.matched);
    if (row.kind == RowKind::kVerify) {
      stats_.drafted_tokens += row.tokens - 1;
      stats_.accepted_tokens += row.matched;
    } else if (table_->is_open(row.row)) {
      HYBRIDATTN_TRY(table_->advance(row.row, row.tokens));
    }
  }
  return backend_->commit(plan, *table_, handles, last);
}

/// Whether a step's tokens can be read later: the host needs none of them to go on.
bool Engine::may_fly(const Step& step, std::span<const Wanted> wanted) const {
  return options_.overlap && options_.draft_tokens == 0 && model_->weights().on_device() &&
         wanted.size() <= static_cast<std::size_t>(model_->logits_block()) &&
         logits_suffice(step, wanted);
}

/// Orders what is left of a step, then reads the tokens of the one before it, while it runs.
Status Engine::launch(Step& step, std::span<const Wanted> wanted, std::vector<TokenEvent>& events) {
  HYBRIDATTN_ASSIGN(step.choices, choose_on_device(step, wanted));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    step.rows[wanted[i].row].place = step.choices.places[i];
  }
  HYBRIDATTN_TRY(collect(events));
  flight_ = std::make_unique<Step>(std::move(step));
  return {};
}

/// Reads the tokens of the step in flight, if there is one. What it computed for requests that have
/// ended since is nobody's.
Status Engine::collect(std::vector<TokenEvent>& events) {
  if (flight_ == nullptr) return {};
  const std::unique_ptr<Step> step = std::move(flight_);
  HYBRIDATTN_ASSIGN(const std::span<const NextToken> chosen, model_->chosen(step->choices));
  count(*step);
  for (const StepRow& row : step->rows) {
    Running* const running = find_running(row.request);
    if (running == nullptr || row.place == kPadIndex) continue;
    const NextToken& token = chosen[static_cast<std::size_t>(row.place)];
    if (token.finite == 0) return logits_error(running->history.size());
    accept(*running, token.id, events);
  }
  drop_finished();
  return {};
}

Status Engine::run(Step& step, std::vector<TokenEvent>& events) {
  HYBRIDATTN_ASSIGN(Plan * plan, forward(step));
  const std::vector<Wanted> wanted = wanted_of(step);
  if (may_fly(step, wanted)) {
    HYBRIDATTN_TRY(commit(step, *plan));
    return launch(step, wanted, events);
  }
  // The samplers go by all that was said before.
  HYBRIDATTN_TRY(collect(events));
  HYBRIDATTN_TRY(sample(step, wanted, events));
  HYBRIDATTN_TRY(commit(step, *plan));
  count(step);
  drop_finished();
  return {};
}

Status Engine::run_next(std::vector<TokenEvent>& events) {
  HYBRIDATTN_ASSIGN(std::optional<Step> next, compose());
  if (!next.has_value()) {
    HYBRIDATTN_TRY(collect(events));
    HYBRIDATTN_ASSIGN(next, compose());
  }
  // No rows: all wait for the last tokens of the step in flight.
  return next->rows.empty() ? collect(events) : run(*next, events);
}

/// Adds a step to the statistics, with the time since the last one.
void Engine::count(const Step& step) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = uncounted_seconds_ + std::chrono::duration<double>(now - counted_).count();
  uncounted_seconds_ = 0;
  counted_ = now;
  if (step.prefill_tokens > 0) {
    stats_.prefill_tokens += step.prefill_tokens;
    stats_.prefill_seconds += seconds;
    return;
  }
  for (const StepRow& row : step.rows) {
    stats_.decode_tokens += row.kind == RowKind::kVerify ? row.matched + 1 : row.tokens;
  }
  stats_.decode_seconds += seconds;
}

void Engine::drop_finished() {
  std::erase_if(running_, [](const Running& r) { return r.row.index < 0; });
}

Result<std::vector<TokenEvent>> Engine::step() {
  if (table_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, "step: allocate_caches was not called");
  }
  const cuda::ThreadDevice device(options_.context);
  std::vector<TokenEvent> events = std::move(pending_);
  pending_.clear();
  admit();
  if (running_.empty()) {
    flight_.reset();  // of requests that were cancelled
    uncounted_seconds_ = 0;
    return events;
  }
  counted_ = std::chrono::steady_clock::now();
  if (const Status done = run_next(events); !done.ok()) {
    for (Running& running : running_) close(running);
    running_.clear();
    flight_.reset();
    return done;
  }
  const std::chrono::duration<double> rest = std::chrono::steady_clock::now() - counted_;
  uncounted_seconds_ += rest.count();
  return events;
}

}  // namespace hybridattn::engine
