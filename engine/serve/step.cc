// Running one step of the engine: forward, next tokens, commit. A step whose tokens the device
// chooses stays in flight: the next one is ordered behind it before they are read.
#include <algorithm>
#include <limits>

#include "engine/ops/cuda/kernels.h"
#include "engine/serve/step_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
/// Runs a step that is not recorded.
Status Engine::run_eagerly(const ForwardBatch& batch, std::span<const std::int32_t> ids) {
  HYBRIDATTN_TRY(on_ranks([&](ModelRank& rank) { return rank.prepare(batch, ids); }));
  return on_ranks([](ModelRank& rank) { return rank.run(); });
}

/// Replays the step where it was recorded, and else runs it.
Status Engine::forward(const Step& step) {
  // Of one alone where another had no memory for what it made room for.
  const auto lacks_graphs = [](const auto& rank) { return rank->lacks_graphs(); };
  if (std::any_of(ranks_.begin(), ranks_.end(), lacks_graphs)) {
    HYBRIDATTN_TRY(on_ranks([](ModelRank& rank) { return rank.record_graphs(); }));
  }
  if (!lead().can_replay(step.batch)) return run_eagerly(step.batch, step.ids);
  std::vector<std::int32_t> limits;  // what each row of a decode step may say
  for (const StepRow& row : step.rows) limits.push_back(row.vocab_limit);
  HYBRIDATTN_TRY(
      on_ranks([&](ModelRank& rank) { return rank.replay(step.batch, step.ids, limits); }));
  ++stats_.replayed_steps;
  return {};
}

/// The logits of all ranks are the same, and the first one's are read.
Status Engine::logits(std::span<const std::int32_t> tokens, float* out) {
  return on_ranks([&](ModelRank& rank) {
    return rank.model().logits(tokens, &rank == &lead() ? out : nullptr);
  });
}

/// All ranks wait, so that a fault of one ends the wait of the others.
Result<std::span<const NextToken>> Engine::chosen(const Choices& choices) {
  std::span<const NextToken> tokens;
  HYBRIDATTN_TRY(on_ranks([&](ModelRank& rank) -> Status {
    HYBRIDATTN_ASSIGN(const std::span<const NextToken> own, rank.model().chosen(choices));
    if (&rank == &lead()) tokens = own;
    return {};
  }));
  return tokens;
}

/// What was computed is counted; of a row of drafts, what was taken. Requests that have ended are
/// dropped.
Status Engine::commit(Step& step) {
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
  const auto has_drafts = [](const StepRow& row) { return row.kind == RowKind::kVerify; };
  if (std::none_of(step.rows.begin(), step.rows.end(), has_drafts)) {
    return lead().commit(*table_, handles, last);  // nothing is moved
  }
  // Who knows no table is told by -1 which requests have ended.
  std::vector<std::int32_t> open_last = last;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    if (!table_->is_open(handles[i])) open_last[i] = -1;
  }
  return on_ranks([&](ModelRank& rank) {
    return &rank == &lead() ? rank.commit(*table_, handles, last) : rank.commit(open_last);
  });
}

/// Whether a step's tokens can be read later: the host needs none of them to go on.
bool Engine::may_fly(const Step& step, std::span<const Wanted> wanted) const {
  return options_.overlap && options_.draft_tokens == 0 && model().weights().on_device() &&
         wanted.size() <= static_cast<std::size_t>(model().logits_block()) &&
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
  HYBRIDATTN_ASSIGN(const std::span<const NextToken> chosen, this->chosen(step->choices));
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
  HYBRIDATTN_TRY(forward(step));
  const std::vector<Wanted> wanted = wanted_of(step);
  if (may_fly(step, wanted)) {
    HYBRIDATTN_TRY(commit(step));
    return launch(step, wanted, events);
  }
  // The samplers go by all that was said before.
  HYBRIDATTN_TRY(collect(events));
  HYBRIDATTN_TRY(sample(step, wanted, events));
  HYBRIDATTN_TRY(commit(step));
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
