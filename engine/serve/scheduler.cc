// What the engine runs next: queueing, admission, preemption, and the rows of a step.
#include <algorithm>

#include "engine/ops/embedding.h"
#include "engine/serve/draft.h"
#include "engine/serve/step_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// Before the first younger one: ids grow as requests come.
template <class Requests, class Request>
void insert_by_id(Requests& requests, Request&& request) {
  const auto younger = [&](const auto& r) { return r.id > request.id; };
  requests.insert(std::find_if(requests.begin(), requests.end(), younger), std::move(request));
}

}  // namespace

Result<std::uint64_t> Engine::submit(Request request) {
  HYBRIDATTN_TRY(request.sampling.validate());
  if (request.max_new_tokens < 0) {
    return invalid_argument("submit: max_new_tokens is ", request.max_new_tokens,
                            ", must be at least 0");
  }
  const std::int64_t total =
      static_cast<std::int64_t>(request.prompt.size()) + request.max_new_tokens;
  HYBRIDATTN_TRY(check_prompt("submit", request.prompt, total));
  if (request.vocab_limit <= 0 || request.vocab_limit > model().config().vocab_size) {
    request.vocab_limit = model().config().vocab_size;
  }
  Running running;
  running.id = next_id_++;
  running.history = request.prompt;
  running.prefill_end = static_cast<std::int64_t>(request.prompt.size());
  running.limit = std::min(total, model().config().max_position_embeddings);
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
  crowded_ = false;
}

void Engine::admit() {
  // First come, first served. Where pages have run out, nobody comes until some have come back: he
  // would only be sent away again.
  while (!waiting_.empty() && (!crowded_ || running_.empty())) {
    Running& next = waiting_.front();
    const auto known = static_cast<std::int64_t>(next.history.size());
    const Result<Handle> row = table_->open(std::min(known + 1, next.limit));
    if (!row.ok()) return;
    next.row = *row;
    insert_by_id(running_, std::move(next));
    waiting_.pop_front();
  }
}

/// Gives up the pages and the state of a running request. What it has said stays said: it will be
/// computed again, and sampling goes on behind it.
void Engine::wait_again(std::size_t index) {
  Running again = std::move(running_[index]);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  close(again);
  crowded_ = true;
  ++stats_.preemptions;
  // Decoded tokens are computed again as prompt, all but the last, whose logits are wanted; where
  // results must not depend on traffic, as they were.
  const auto prompt = static_cast<std::int64_t>(again.request.prompt.size());
  const auto known = static_cast<std::int64_t>(again.history.size());
  again.prefill_end = lead().context().batch_invariant() ? prompt : std::max(prompt, known - 1);
  insert_by_id(waiting_, std::move(again));
}

/// Pages for `tokens` of a running request, from the youngest ones if there is no other way. False
/// when it was itself the youngest, and waits now, or where the step in flight must end first.
bool Engine::make_room(std::size_t index, std::int64_t tokens, bool& must_wait) {
  while (!table_->reserve(running_[index].row, tokens).ok()) {
    // Who gives up must know all it has said, and those in flight may end by themselves.
    must_wait = flight_ != nullptr;
    if (must_wait) return false;
    const std::size_t youngest = running_.size() - 1;
    wait_again(youngest);
    if (youngest == index) return false;
  }
  return true;
}

/// Where the token is that the step in flight chooses for a request; kPadIndex: nowhere.
std::int32_t Engine::place_of_next(const Running& r) const {
  if (flight_ == nullptr) return kPadIndex;
  const auto& rows = flight_->rows;  // by request, as running_ is
  const auto at = std::lower_bound(rows.begin(), rows.end(), r.id,
                                   [](const StepRow& row, auto id) { return row.request < id; });
  return at != rows.end() && at->request == r.id ? at->place : kPadIndex;
}

std::optional<Engine::StepRow> Engine::choose(std::size_t index, std::int64_t& budget,
                                              bool& must_wait) {
  const Running& r = running_[index];
  const std::int64_t computed = table_->computed(r.row);
  const std::int64_t on_its_way = place_of_next(r) == kPadIndex ? 0 : 1;
  const std::int64_t known = static_cast<std::int64_t>(r.history.size()) + on_its_way;
  if (known >= r.limit) return std::nullopt;  // that was its last one
  StepRow row;
  row.request = r.id;
  row.row = r.row;
  row.vocab_limit = r.request.vocab_limit;
  row.sampling = r.request.sampling;
  row.said = known - static_cast<std::int64_t>(r.request.prompt.size());
  std::int64_t tokens = 1;
  row.kind = RowKind::kDecode;
  if (computed < r.prefill_end) {
    row.kind = RowKind::kPrefill;
    tokens = std::min(budget, r.prefill_end - computed);
    if (computed + tokens < r.prefill_end) {
      // Where results must not depend on traffic, what is left of a chunk does not cut a prompt.
      if (lead().context().chunk_invariant()) {
        tokens -= tokens % kGdnChunk;
      } else if (lead().context().batch_invariant() && tokens < options_.chunk) {
        tokens = 0;
      }
    }
    if (tokens == 0) return std::nullopt;
  }
  if (!make_room(index, computed + tokens, must_wait)) return std::nullopt;
  row.sampled = computed + tokens == known;
  row.tokens = static_cast<std::int32_t>(tokens);
  if (row.kind == RowKind::kPrefill) budget -= tokens;
  return row;
}

/// Nothing where the step in flight must end first.
Result<std::optional<Engine::Step>> Engine::compose() {
  std::vector<StepRow> rows;
  std::vector<BatchRow> batch_rows;
  std::vector<std::int32_t> ids;
  std::int64_t budget = options_.chunk;
  bool must_wait = false;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    std::optional<StepRow> row = choose(i, budget, must_wait);
    if (must_wait) return std::optional<Step>();
    if (!row.has_value()) continue;
    const Running& r = running_[i];
    const std::int64_t computed = table_->computed(r.row);
    row->first_token = static_cast<std::int32_t>(ids.size());
    if (computed < static_cast<std::int64_t>(r.history.size())) {
      const auto first = r.history.begin() + computed;
      ids.insert(ids.end(), first, first + row->tokens);
    } else {
      ids.push_back(chosen_id(place_of_next(r)));
    }
    if (row->kind == RowKind::kDecode && row->sampled) add_drafts(r, *row, ids);
    HYBRIDATTN_ASSIGN(BatchRow batch_row, table_->batch_row(r.row, row->kind, row->tokens));
    batch_rows.push_back(std::move(batch_row));
    rows.push_back(*row);
  }
  HYBRIDATTN_ASSIGN(ForwardBatch batch, ForwardBatch::create(std::move(batch_rows)));
  return std::optional<Step>(
      Step{std::move(batch), std::move(rows), std::move(ids), options_.chunk - budget});
}

/// Makes a decode row a verify row where there is something to draft and room for it. Drafts are
/// worth no page of another request.
void Engine::add_drafts(const Running& r, StepRow& row, std::vector<std::int32_t>& ids) {
  const auto known = static_cast<std::int64_t>(r.history.size());
  // The last token of all is sampled and never computed.
  const auto most = std::min<std::int64_t>(options_.draft_tokens, r.limit - known - 1);
  if (most <= 0) return;
  const std::vector<std::int32_t> drafts = draft_tokens(r.history, static_cast<std::int32_t>(most));
  const auto count = static_cast<std::int32_t>(drafts.size());
  if (count == 0 || !table_->reserve(r.row, known + count).ok()) return;
  row.kind = RowKind::kVerify;
  row.tokens += count;
  ids.insert(ids.end(), drafts.begin(), drafts.end());
}

}  // namespace hybridattn::engine
