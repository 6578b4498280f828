// Running one step of the engine: forward, sample, commit.
#include <algorithm>

#include "engine/serve/step_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {

/// Decode steps of up to this many rows have a graph for each number of rows: padding would cost
/// more than it saves where a step is bound by arithmetic.
constexpr std::int32_t kExactRows = 8;

Status Engine::record_graphs() {
  if (!options_.graphs || graphs_version_ == model_->buffers_version()) return {};
  graphs_.reset();
  const std::int32_t pages = table_->max_pages_per_row();
  std::vector<GraphShape> sizes;
  for (std::int32_t rows = 1; rows <= std::min(options_.max_batch, kExactRows); ++rows) {
    sizes.push_back(decode_buckets(rows, pages).back());
  }
  for (const GraphShape& size : decode_buckets(options_.max_batch, pages)) {
    if (size.decode_rows > kExactRows) sizes.push_back(size);
  }
  HYBRIDATTN_ASSIGN(
      graphs_, GraphRunner::create(*context_, *backend_, std::move(sizes),
                                   [this](const Plan& p) { return model_->run(p, *backend_); }));
  graphs_version_ = model_->buffers_version();
  return {};
}

/// Replays the step where it was recorded, and else runs it. Rows of drafts differ in length from
/// step to step: padded to one length they would compute tokens that nobody wants.
Result<Plan*> Engine::forward(const Step& step) {
  if (step.batch.mode() == ForwardMode::kDecode) {
    HYBRIDATTN_TRY(record_graphs());
    if (graphs_ != nullptr && graphs_->can_run(step.batch)) {
      HYBRIDATTN_TRY(model_->set_inputs(step.batch, step.ids));
      HYBRIDATTN_TRY(graphs_->run(step.batch).status());
      model_->set_tokens(graphs_->last_plan()->num_tokens());
      ++stats_.replayed_steps;
      return graphs_->last_plan();
    }
  }
  HYBRIDATTN_ASSIGN(plan_, model_->forward(step.batch, *backend_, step.ids));
  return plan_.get();
}

void Engine::accept(Running& running, std::int32_t token, std::vector<TokenEvent>& events) {
  running.history.push_back(token);
  TokenEvent event{running.id, token, Finish::kNone};
  const auto& eos = model_->config().eos_token_ids;
  if (!running.request.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
    event.finish = Finish::kEos;
  } else if (static_cast<std::int64_t>(running.history.size()) >= running.limit) {
    event.finish = Finish::kLength;
  }
  if (event.finish != Finish::kNone) close(running);
  events.push_back(event);
}

/// The token behind the row's tokens so far. In a row of drafts it goes on for as long as the
/// sampler takes what was drafted.
void Engine::sample_one(const Step& step, StepRow& row, std::span<float> logits,
                        std::vector<TokenEvent>& events) {
  const TraceSpan span(*context_, "sample");
  Running& running = running_[row.member];
  const std::int32_t token =
      running.sampler.next(logits, running.history, running.request.vocab_limit);
  accept(running, token, events);
  const std::int32_t next = row.first_token + row.matched + 1;
  row.stopped = running.row.index < 0 || next == row.first_token + row.tokens ||
                step.ids[static_cast<std::size_t>(next)] != token;
  if (!row.stopped) ++row.matched;
}

Status Engine::sample(Step& step, std::vector<TokenEvent>& events) {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> rows;
  for (std::size_t r = 0; r < step.rows.size(); ++r) {
    const StepRow& row = step.rows[r];
    if (!row.sampled) continue;
    const std::int32_t wanted = row.kind == RowKind::kVerify ? row.tokens : 1;
    for (std::int32_t i = row.tokens - wanted; i < row.tokens; ++i) {
      tokens.push_back(row.first_token + i);
      rows.push_back(r);
    }
  }
  const auto vocab = static_cast<std::size_t>(model_->config().vocab_size);
  const auto block = static_cast<std::size_t>(model_->logits_block());
  for (std::size_t first = 0; first < tokens.size(); first += block) {
    const std::size_t count = std::min(block, tokens.size() - first);
    logits_.resize(std::max(logits_.size(), count * vocab));
    HYBRIDATTN_TRY(model_->logits(std::span(tokens).subspan(first, count), logits_.data()));
    for (std::size_t i = 0; i < count; ++i) {
      StepRow& row = step.rows[rows[first + i]];
      if (row.stopped) continue;
      const std::span<float> logits(logits_.data() + i * vocab, vocab);
      HYBRIDATTN_TRY(check_logits(logits, running_[row.member].history.size()));
      sample_one(step, row, logits, events);
    }
  }
  return {};
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

Status Engine::run(Step& step, std::vector<TokenEvent>& events) {
  HYBRIDATTN_ASSIGN(Plan * plan, forward(step));
  HYBRIDATTN_TRY(sample(step, events));
  return commit(step, *plan);
}

void Engine::count(const Step& step, double seconds) {
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
  std::vector<TokenEvent> events = std::move(pending_);
  pending_.clear();
  admit();
  if (running_.empty()) return events;
  const auto begin = std::chrono::steady_clock::now();
  Result<Step> step = compose();
  const Status done = step.ok() ? run(*step, events) : step.status();
  if (!done.ok()) {
    for (Running& running : running_) close(running);
    running_.clear();
    return done;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  count(*step, seconds.count());
  drop_finished();
  return events;
}

}  // namespace hybridattn::engine
