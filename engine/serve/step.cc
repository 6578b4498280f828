// Running one step of the engine: forward, sample, commit.
#include <algorithm>

#include "engine/ops/cuda/kernels.h"
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
      graphs_, GraphRunner::create(*context_, *backend_, std::move(sizes), [this](const Plan& p) {
        return model_->run_to_tokens(p, *backend_);
      }));
  graphs_version_ = model_->buffers_version();
  return {};
}

/// What each row of a decode step may say.
Status Engine::set_limits(const Step& step) {
  std::vector<std::int32_t> limits;
  for (const StepRow& row : step.rows) {
    limits.push_back(running_[row.member].request.vocab_limit);
  }
  const auto most = static_cast<std::size_t>(model_->logits_block());
  return model_->set_limits(std::span(limits).first(std::min(limits.size(), most)));
}

/// Replays the step where it was recorded, and else runs it. Rows of drafts differ in length from
/// step to step: padded to one length they would compute tokens that nobody wants.
Result<Plan*> Engine::forward(const Step& step) {
  if (step.batch.mode() == ForwardMode::kDecode) {
    HYBRIDATTN_TRY(record_graphs());
    if (graphs_ != nullptr && graphs_->can_run(step.batch)) {
      HYBRIDATTN_TRY(model_->set_inputs(step.batch, step.ids));
      if (model_->weights().on_device()) HYBRIDATTN_TRY(set_limits(step));
      HYBRIDATTN_TRY(graphs_->run(step.batch).status());
      model_->set_replayed(graphs_->last_plan()->num_tokens());
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

/// Takes the token behind the row's tokens so far. In a row of drafts it goes on for as long as the
/// sampler takes what was drafted.
void Engine::take_token(const Step& step, StepRow& row, std::int32_t token,
                        std::vector<TokenEvent>& events) {
  Running& running = running_[row.member];
  accept(running, token, events);
  const std::int32_t next = row.first_token + row.matched + 1;
  row.stopped = running.row.index < 0 || next == row.first_token + row.tokens ||
                step.ids[static_cast<std::size_t>(next)] != token;
  if (!row.stopped) ++row.matched;
}

/// The logits come to the host, whose sampler chooses.
Status Engine::sample_on_host(Step& step, std::span<const Wanted> wanted,
                              std::vector<TokenEvent>& events) {
  const auto vocab = static_cast<std::size_t>(model_->config().vocab_size);
  std::vector<std::int32_t> tokens;
  for (const Wanted& each : wanted) tokens.push_back(each.token);
  logits_.resize(std::max(logits_.size(), wanted.size() * vocab));
  HYBRIDATTN_TRY(model_->logits(tokens, logits_.data()));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    StepRow& row = step.rows[wanted[i].row];
    if (row.stopped) continue;
    Running& running = running_[row.member];
    const std::span<float> logits(logits_.data() + i * vocab, vocab);
    HYBRIDATTN_TRY(check_logits(logits, running.history.size()));
    const TraceSpan span(*context_, "sample");
    take_token(step, row,
               running.sampler.next(logits, running.history, running.request.vocab_limit), events);
  }
  return {};
}

/// The device chooses, and the host gets ids.
Status Engine::sample_on_device(Step& step, std::span<const Wanted> wanted,
                                std::vector<TokenEvent>& events) {
  std::vector<std::int32_t> tokens, limits;
  for (const Wanted& each : wanted) {
    tokens.push_back(each.token);
    limits.push_back(running_[step.rows[each.row].member].request.vocab_limit);
  }
  HYBRIDATTN_ASSIGN(const std::span<const GreedyToken> chosen, model_->greedy(tokens, limits));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    StepRow& row = step.rows[wanted[i].row];
    if (row.stopped) continue;
    if (chosen[i].finite == 0) return logits_error(running_[row.member].history.size());
    take_token(step, row, chosen[i].id, events);
  }
  return {};
}

/// Whether the largest logit is what the samplers of all rows would take.
bool Engine::all_greedy(const Step& step, std::span<const Wanted> wanted) const {
  return std::all_of(wanted.begin(), wanted.end(), [&](const Wanted& each) {
    return running_[step.rows[each.row].member].request.sampling.is_argmax();
  });
}

Status Engine::sample(Step& step, std::vector<TokenEvent>& events) {
  std::vector<Wanted> all;
  for (std::size_t r = 0; r < step.rows.size(); ++r) {
    const StepRow& row = step.rows[r];
    if (!row.sampled) continue;
    const std::int32_t wanted = row.kind == RowKind::kVerify ? row.tokens : 1;
    for (std::int32_t i = row.tokens - wanted; i < row.tokens; ++i) {
      all.push_back({row.first_token + i, r});
    }
  }
  const auto block = static_cast<std::size_t>(model_->logits_block());
  for (std::size_t first = 0; first < all.size(); first += block) {
    const auto wanted =
        std::span<const Wanted>(all).subspan(first, std::min(block, all.size() - first));
    const bool on_device = context_->device() == DeviceType::kCuda && all_greedy(step, wanted);
    HYBRIDATTN_TRY(on_device ? sample_on_device(step, wanted, events)
                             : sample_on_host(step, wanted, events));
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
  const cuda::ThreadDevice device(options_.context);
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
