// The engine's steps: admit, compose a mixed batch, run it, sample, finish.
#include <algorithm>

#include "engine/serve/engine.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {

/// One mixed batch and what of it must be sampled.
struct Engine::Step {
  ForwardBatch batch;
  std::vector<std::int32_t> ids;
  std::vector<std::size_t> members;      // index in running_, by row
  std::vector<std::int32_t> sampled;     // tokens of the stream whose logits are wanted
  std::vector<std::size_t> sampled_for;  // index in running_, by entry of `sampled`
  std::int64_t prefill_tokens = 0;
};

Result<std::uint64_t> Engine::submit(Request request) {
  HYBRIDATTN_TRY(request.sampling.validate());
  if (request.max_new_tokens < 0) {
    return invalid_argument("submit: max_new_tokens is ", request.max_new_tokens,
                            ", must be at least 0");
  }
  const std::int64_t total =
      static_cast<std::int64_t>(request.prompt.size()) + request.max_new_tokens;
  HYBRIDATTN_TRY(check_prompt("submit", request.prompt, total));
  if (request.vocab_limit <= 0 || request.vocab_limit > model_->config().vocab_size) {
    request.vocab_limit = model_->config().vocab_size;
  }
  Running running;
  running.id = next_id_++;
  running.sampler = Sampler(request.sampling);
  running.history = request.prompt;
  running.limit = std::min(total, model_->config().max_position_embeddings);
  running.request = std::move(request);
  const std::uint64_t id = running.id;
  if (running.limit <= static_cast<std::int64_t>(running.history.size())) {
    pending_.push_back({id, kPadIndex, Finish::kLength});
  } else {
    waiting_.push_back(std::move(running));
  }
  return id;
}

Status Engine::cancel(std::uint64_t request) {
  const auto is_it = [&](const Running& r) { return r.id == request; };
  if (const auto it = std::find_if(waiting_.begin(), waiting_.end(), is_it); it != waiting_.end()) {
    waiting_.erase(it);
  } else if (const auto at = std::find_if(running_.begin(), running_.end(), is_it);
             at != running_.end()) {
    close(*at);
    running_.erase(at);
  } else {
    return error(StatusCode::kNotFound, "cancel: request ", request, " neither waits nor runs");
  }
  pending_.push_back({request, kPadIndex, Finish::kCancelled});
  return {};
}

void Engine::close(Running& running) {
  if (running.row.index < 0) return;
  // The row is open and its handles are live: only a broken invariant could make this fail, and the
  // ledger's check() would tell.
  const Status closed = table_->close(running.row);
  static_cast<void>(closed);
  running.row = Handle();
}

void Engine::admit() {
  // First come, first served. A request takes all the room that it can ever need, so that one that
  // runs is never stopped for want of pages.
  while (!waiting_.empty()) {
    Running& next = waiting_.front();
    Result<Handle> row = table_->open();
    if (!row.ok()) return;
    if (const Status reserved = table_->reserve(*row, next.limit); !reserved.ok()) {
      next.row = *row;
      close(next);
      return;
    }
    next.row = *row;
    running_.push_back(std::move(next));
    waiting_.pop_front();
  }
}

Result<Engine::Step> Engine::compose() {
  std::vector<BatchRow> rows;
  std::vector<std::int32_t> ids;
  std::vector<std::size_t> members;
  std::vector<std::int32_t> sampled;
  std::vector<std::size_t> sampled_for;
  std::int64_t budget = options_.chunk;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const Running& r = running_[i];
    const auto prompt = static_cast<std::int64_t>(r.request.prompt.size());
    const bool decodes = r.prefilled == prompt;
    const std::int64_t count = decodes ? 1 : std::min(budget, prompt - r.prefilled);
    if (count == 0) continue;
    const RowKind kind = decodes ? RowKind::kDecode : RowKind::kPrefill;
    HYBRIDATTN_ASSIGN(BatchRow row,
                      table_->batch_row(r.row, kind, static_cast<std::int32_t>(count)));
    const auto first = r.history.begin() +
                       (decodes ? static_cast<std::int64_t>(r.history.size()) - 1 : r.prefilled);
    ids.insert(ids.end(), first, first + count);
    rows.push_back(std::move(row));
    members.push_back(i);
    if (!decodes) budget -= count;
    if (decodes || r.prefilled + count == prompt) {
      sampled.push_back(static_cast<std::int32_t>(ids.size()) - 1);
      sampled_for.push_back(i);
    }
  }
  HYBRIDATTN_ASSIGN(ForwardBatch batch, ForwardBatch::create(std::move(rows)));
  return Step{std::move(batch),   std::move(ids),         std::move(members),
              std::move(sampled), std::move(sampled_for), options_.chunk - budget};
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

Status Engine::sample(const Step& step, std::vector<TokenEvent>& events) {
  const auto vocab = static_cast<std::size_t>(model_->config().vocab_size);
  const auto block = static_cast<std::size_t>(model_->logits_block());
  for (std::size_t first = 0; first < step.sampled.size(); first += block) {
    const std::size_t count = std::min(block, step.sampled.size() - first);
    logits_.resize(std::max(logits_.size(), count * vocab));
    HYBRIDATTN_TRY(model_->logits(std::span(step.sampled).subspan(first, count), logits_.data()));
    for (std::size_t i = 0; i < count; ++i) {
      Running& running = running_[step.sampled_for[first + i]];
      const std::span<float> row(logits_.data() + i * vocab, vocab);
      HYBRIDATTN_TRY(check_logits(row, running.history.size()));
      accept(running, running.sampler.next(row, running.history, running.request.vocab_limit),
             events);
    }
  }
  return {};
}

Status Engine::run(const Step& step, std::vector<TokenEvent>& events) {
  HYBRIDATTN_TRY(model_->forward(step.batch, *backend_, step.ids));
  for (std::int32_t r = 0; r < step.batch.num_rows(); ++r) {
    Running& running = running_[step.members[static_cast<std::size_t>(r)]];
    const BatchRow& row = step.batch.rows()[static_cast<std::size_t>(r)];
    HYBRIDATTN_TRY(table_->advance(running.row, row.new_tokens));
    if (row.kind == RowKind::kPrefill) running.prefilled += row.new_tokens;
  }
  return sample(step, events);
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
  if (step->prefill_tokens > 0) {
    stats_.prefill_tokens += step->prefill_tokens;
    stats_.prefill_seconds += seconds.count();
  } else {
    stats_.decode_tokens += step->batch.num_tokens();
    stats_.decode_seconds += seconds.count();
  }
  drop_finished();
  return events;
}

}  // namespace hybridattn::engine
